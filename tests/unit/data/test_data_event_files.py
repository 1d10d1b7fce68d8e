"""Event data sets in their own formats: what is read is what was written bit by bit, and all else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fuzz import packing
from tests.fuzz.packing import AEDAT2_HEAD, AEDAT3_HEAD, aedat2_events, aedat3_data, aedat3_packet, nmnist_events

from onward.core.errors import DataError
from onward.data import Dataset, listing, load, open_file, read_recordings, recorded, write_recordings
from onward.data.aedat import Listed, read_aedat2, read_aedat3
from onward.data.catalogue import datasets
from onward.data.event_sets import CIFAR_CLASSES
from onward.data.nmnist_files import read_nmnist
from onward.data.recorded import Filed, Trial


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))


def events(count: int, side: int, seed: int = 0, longest: int = 5000) -> Listed:
    rng = np.random.default_rng(seed)
    x, y, p = (rng.integers(0, high, count) for high in (side, side, 2))
    return Listed(x, y, p, np.sort(rng.integers(0, longest, count)))


def slow_nmnist(content: bytes) -> list[tuple[int, int, int, int]]:
    """Bit by bit, from the published description."""
    found, ticks = [], 0
    for start in range(0, len(content), 5):
        bits = "".join(f"{byte:08b}" for byte in content[start : start + 5])
        x, y, p, t = int(bits[:8], 2), int(bits[8:16], 2), int(bits[16], 2), int(bits[17:], 2)
        ticks += y == 240
        if y != 240:
            found.append((x, y, p, t + 8192 * ticks))
    return found


def same(found: Listed, expected: list[tuple[int, ...]]) -> bool:
    return list(zip(*(values.tolist() for values in found), strict=True)) == expected


def test_nmnist_bit_by_bit(tmp_path: Path) -> None:
    path, made = tmp_path / "1.bin", events(200, 34, longest=2**23)
    made.y[[20, 90]] = 240
    path.write_bytes(nmnist_events(*made))
    assert same(read_nmnist(path), slow_nmnist(path.read_bytes()))
    assert len(read_nmnist(path).t) == 198


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is 0 bytes long; expected 5 for each event"),
        (b"1234567", "is 7 bytes long"),
        (b"\x00\xf0\x00\x00\x00" * 3, "no event but 3 of the clock"),
    ],
)
def test_nmnist_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "1.bin").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_nmnist(tmp_path / "1.bin")
    assert str(tmp_path / "1.bin") in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_nmnist(tmp_path / "2.bin")


def test_aedat2_is_upright_and_starts_at_0(tmp_path: Path) -> None:
    path, made = tmp_path / "a.aedat", events(100, 128)
    row, column = 127 - made.x, 127 - made.y
    address = row << 8 | column << 1 | 1 - made.p
    address[[3, 50]] |= [1 << 15, 1 << 31]
    path.write_bytes(AEDAT2_HEAD + aedat2_events(address, made.t + 77_000))
    kept = np.delete(np.arange(100), [3, 50])
    expected = Listed(*(values[kept] for values in made))
    assert same(read_aedat2(path), [tuple(e) for e in np.array(expected._replace(t=expected.t - expected.t[0])).T])


def test_aedat3_packets(tmp_path: Path) -> None:
    path, made = tmp_path / "a.aedat", events(90, 128)
    data = aedat3_data(made.x, made.y, made.p)
    unmarked, marked = aedat3_data(made.x, made.y, made.p, 0), data.copy()
    marked[:20] &= ~1
    packets = (
        aedat3_packet(data, made.t),
        aedat3_packet(data[:0], made.t[:0]),
        aedat3_packet(data[:7], made.t[:7], kind=0),
        aedat3_packet(data, made.t, overflow=2),
        aedat3_packet(unmarked, made.t),
        aedat3_packet(marked, made.t, valid=70),
    )
    path.write_bytes(AEDAT3_HEAD + b"".join(packets))
    late, last = made._replace(t=made.t + 2**32), Listed(*(values[20:] for values in made))
    assert np.array_equal(read_aedat3(path), np.concatenate([made, late, made, last], axis=1))


EVENT3 = aedat3_packet(np.array([1]), np.array([0]))


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_aedat2, b"", "begins with b''; expected #!AER-DAT2.0"),
        (read_aedat2, AEDAT3_HEAD, "expected #!AER-DAT2.0"),
        (read_aedat2, AEDAT2_HEAD, "no event of a pixel"),
        (read_aedat2, AEDAT2_HEAD + bytes(13), "13 bytes follow the header; expected 8 for each event"),
        (read_aedat2, AEDAT2_HEAD + b"\x00\x00\x80\x00" * 2, "no event of a pixel"),
        (read_aedat2, AEDAT2_HEAD + b"#" * 70_000, "header does not end within 65,536 bytes"),
        (read_aedat3, AEDAT2_HEAD, "expected #!AER-DAT3.1"),
        (read_aedat3, AEDAT3_HEAD, "no polarity event"),
        (read_aedat3, AEDAT3_HEAD + EVENT3[:20], "ends inside its header"),
        (read_aedat3, AEDAT3_HEAD + EVENT3[:-1], "announces 1 events of 8 bytes, and 7 bytes follow"),
        (read_aedat3, AEDAT3_HEAD + EVENT3[:20] + b"\xff" * 16, "announces -1 events"),
        (read_aedat3, AEDAT3_HEAD + EVENT3[:4] + b"\x04" + EVENT3[5:], "polarity events of 4 bytes; expected 8"),
        (read_aedat3, AEDAT3_HEAD + EVENT3[:20] + b"\xff\xff\xff\x7f" * 4, "announces 2,147,483,647 events"),
    ],
)
def test_aedat_damaged(tmp_path: Path, read: Callable[[Path], Listed], content: bytes, message: str) -> None:
    (tmp_path / "a.aedat").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "a.aedat")
    assert str(tmp_path / "a.aedat") in str(caught.value)


def test_events_beyond_the_sensor_are_refused_and_late_ones_sorted(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    listed = Listed(*(np.array(values) for values in ([1, 2, 3], [0, 1, 2], [0, 1, 1], [5, 3, 5])))
    taken = Filed([Trial(path, 4)], lambda _: listed, 3, 4).take(np.array([0]))
    assert taken.t.tolist() == [3, 5, 5]
    assert taken.address.tolist() == [12 + 4 + 2, 1, 12 + 8 + 3]
    with pytest.raises(DataError, match=r"a.bin: y\[2\] is 2; expected 0 to 1"):
        Filed([Trial(path, 4)], lambda _: listed, 2, 4).take(np.array([0]))


def nmnist(root: Path, each: int = 3) -> None:
    for part, base in (("Train", 0), ("Test", 1000)):
        for digit in range(10):
            folder = root / "nmnist" / part / str(digit)
            folder.mkdir(parents=True)
            for number in range(each):
                made = events(20 + number, 34, seed=base + 10 * digit + number)
                (folder / f"{number:05}.bin").write_bytes(nmnist_events(*made))


def shown(data: Dataset, steps: int) -> np.ndarray:
    return data.batch(torch.arange(len(data)), steps).x.chunk(0, steps).numpy()


def slow_counts(made: Listed, steps: int, side: int) -> np.ndarray:
    frames, duration = np.zeros((steps, 2, side, side)), int(made.t[-1]) + 1
    for x, y, p, t in zip(*made, strict=True):
        frames[t * steps // duration, p, y, x] += 1
    return frames


def test_nmnist_from_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nmnist(tmp_path)
    split = load({"name": "nmnist", "root": str(tmp_path), "counts": True})
    assert (len(split.train), len(split.test), split.train.classes) == (30, 30, 10)
    assert split.test.labels().tolist() == [digit for digit in range(10) for _ in range(3)]
    expected = np.stack(
        [slow_counts(events(20 + n % 3, 34, 1000 + 10 * (n // 3) + n % 3), 4, 34) for n in range(30)], 1
    )
    assert np.array_equal(shown(split.test, 4), expected)
    monkeypatch.setattr(recorded, "_made", None)
    again = load({"name": "nmnist", "root": str(tmp_path), "counts": True})
    assert np.array_equal(shown(again.test, 4), expected), "from the cache"


def test_fewer_files_are_read_with_a_limit(tmp_path: Path) -> None:
    nmnist(tmp_path)
    options = {"name": "nmnist", "root": str(tmp_path), "bin_us": 1000}
    whole, some = load(options).train, load({**options, "limit": 10}).train
    (tmp_path / "nmnist" / "Train" / "4" / "00001.bin").write_bytes(b"123")
    assert some.labels().tolist() == list(range(10))
    assert whole.steps == 5
    assert np.array_equal(shown(some, 5), load({**options, "limit": 10}).train.batch(torch.arange(10), 5).x.chunk(0, 5))
    with pytest.raises(DataError, match=r"Train/4/00001.bin: is 3 bytes long"):
        load(options)


def test_a_class_without_files(tmp_path: Path) -> None:
    nmnist(tmp_path)
    for file in (tmp_path / "nmnist" / "Test" / "7").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"Test/7: holds no .bin file; expected one for each recording"):
        load({"name": "nmnist", "root": str(tmp_path)})


def gesture_files(root: Path) -> None:
    for name, content in packing.gesture_folder(packing.gestures()).items():
        (root / name).write_bytes(content)


def test_gestures_are_cut_out_of_their_trials(tmp_path: Path) -> None:
    gesture_files(tmp_path)
    split = load({"name": "dvs-gesture", "root": str(tmp_path), "counts": True, "bin_us": 500})
    assert split.train.labels().tolist() == [0, 10, 2]
    assert (split.train.classes, split.train.features, split.train.steps) == (11, (2, 128, 128), 5)
    k = np.arange(30)
    x, y, p, t = np.tile([k % 9, k % 7, k % 2, 100 * k], 2)
    t[30:] += 3000
    for row, (start, stop) in enumerate([(0, 1500), (1500, 4000), (4500, 6000)]):
        frames = np.zeros((5, 2, 128, 128))
        for e in np.flatnonzero((t >= start) & (t < stop)):
            frames[(t[e] - start) // 500, p[e], y[e], x[e]] += 1
        assert np.array_equal(shown(split.train, 5)[:, row], frames)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trials_to_test.txt", b"", "names no .aedat file"),
        ("trials_to_test.txt", b"../a.aedat\n", "names '../a.aedat'; expected .aedat files of the same folder"),
        ("trials_to_test.txt", b"user02.aedat", r"user02_labels.csv: cannot be read \(No such file"),
        ("user01_led_labels.csv", b"1,0,5\n", "expected class,startTime_usec,endTime_usec"),
        ("user01_led_labels.csv", b"class,startTime_usec,endTime_usec\n", "and a line for each gesture"),
        ("user01_led_labels.csv", b"class,startTime_usec,endTime_usec\n1,2\n", "'1,2'; expected three whole numbers"),
        ("user01_led_labels.csv", b"class,startTime_usec,endTime_usec\n12,2,4\n", "expected a class from 1 to 11"),
        ("user01_led_labels.csv", b"class,startTime_usec,endTime_usec\n1,4,4\n", "a start before an end"),
        ("user01_led_labels.csv", b"\xff\xfe", "no ASCII text"),
        ("user01_led_labels.csv", b"1" * 2**21, "longer than 1,048,576 bytes"),
        ("user01_led_labels.csv", b"class,startTime_usec,endTime_usec\n1,7000,7001\n", "no event from 7,000 to 7,001"),
    ],
)
def test_gestures_damaged(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    gesture_files(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load({"name": "dvs-gesture", "root": str(tmp_path)}).train.batch(torch.arange(1), 2)
    assert str(tmp_path) in str(caught.value)


def dvs_cifar10(root: Path, each: int = 12) -> None:
    for label, name in enumerate(CIFAR_CLASSES):
        folder = root / "dvs-cifar10" / name
        folder.mkdir(parents=True)
        for number in range(each):
            address = np.arange(number + 1) << 8 | label << 1
            content = AEDAT2_HEAD + aedat2_events(address, 10 * np.arange(number + 1))
            (folder / f"cifar10_{name}_{number}.aedat").write_bytes(content)


def test_dvs_cifar10_tests_on_the_last_of_each_class(tmp_path: Path) -> None:
    dvs_cifar10(tmp_path)
    options = {"name": "dvs-cifar10", "root": str(tmp_path), "holdout": 1 / 6}
    split = load(options)
    assert split.test.labels().tolist() == [label for label in range(10) for _ in range(2)]
    assert shown(split.test, 1)[0].sum((1, 2, 3)).tolist() == [11, 12] * 10, "10 and 11 by number come after 9"
    assert shown(split.train, 1)[0].sum((1, 2, 3)).tolist() == list(range(1, 11)) * 10
    seeded, again = (load({**options, "test_part": "seeded"}).test.fingerprint(1) for _ in range(2))
    assert seeded == again != split.test.fingerprint(1)
    assert seeded != load({**options, "test_part": "seeded", "holdout_seed": 1}).test.fingerprint(1)


@pytest.mark.parametrize("name", ["nmnist", "dvs-gesture", "dvs-cifar10"])
def test_missing_files_say_what_where_and_how(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        DataError, match=rf"{name}: looked for .* in {tmp_path}/{name} or .* offered at https://.*--data"
    ):
        load({"name": name, "root": str(tmp_path)})
    assert "offered at" in next(line.where for line in listing() if line.name == name)


def test_a_file_is_evaluated_on_the_sensor_that_was_trained_on(tmp_path: Path) -> None:
    gesture_files(tmp_path)
    like = datasets.parse({"name": "dvs-gesture", "root": str(tmp_path)})
    listed = read_aedat3(tmp_path / "user01_led.aedat")._replace(x=np.full(60, 127))
    taken = Filed([Trial(tmp_path / "user01_led.aedat", 0)], lambda _: listed, 128, 128).take(np.array([0]))
    write_recordings(tmp_path / "mine.npz", taken)
    assert open_file(tmp_path / "mine.npz", like).features == (2, 128, 128)


REAL = Path(__file__).parents[4] / "shared" / "data" / "nmnist-small.npz"


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/nmnist-small.npz, real recordings, is not here")
def test_real_recordings_in_the_published_format(tmp_path: Path) -> None:
    real = read_recordings(REAL).take(np.arange(0, 800, 20))
    trials = []
    for row, label in enumerate(real.label.tolist()):
        part = slice(real.offsets[row], real.offsets[row + 1])
        p, y, x = np.unravel_index(real.address[part], real.features)
        trials.append(Trial(tmp_path / f"{row:05}.bin", label))
        trials[row].path.write_bytes(nmnist_events(x, y, p, real.t[part].astype(np.int64)))
    found = Filed(trials, read_nmnist, 34, 34).take(np.arange(len(real)))
    for name in ("address", "t", "offsets", "label"):
        assert np.array_equal(getattr(found, name), getattr(real, name)), name


def test_the_same_events_as_tonic_reads(tmp_path: Path) -> None:
    """Not installed with Onward: an independent reader of the same formats."""
    tonic = pytest.importorskip("tonic.io", reason="tonic is not installed")
    made = events(300, 34)
    (tmp_path / "1.bin").write_bytes(nmnist_events(*made))
    theirs = tonic.read_mnist_file(str(tmp_path / "1.bin"), np.dtype([(n, int) for n in "xytp"]))
    assert np.array_equal(read_nmnist(tmp_path / "1.bin"), [theirs[name] for name in "xypt"])
    packets = b"".join(aedat3_packet(aedat3_data(*made[:3]), made.t + start) for start in (0, 5000))
    (tmp_path / "3.aedat").write_bytes(AEDAT3_HEAD + packets)
    _, theirs = tonic.read_dvs_ibm(str(tmp_path / "3.aedat"))
    assert np.array_equal(read_aedat3(tmp_path / "3.aedat"), [theirs[name] for name in "xypt"])
    (tmp_path / "2.aedat").write_bytes(AEDAT2_HEAD + aedat2_events(made.x << 8 | made.y << 1 | made.p, made.t))
    _, theirs = tonic.read_dvs_128(str(tmp_path / "2.aedat"))
    x, y, p, t = read_aedat2(tmp_path / "2.aedat")
    turned = (127 - x, 127 - y, 1 - p, t + made.t[0])  # tonic leaves the sensor on its side, and the clock as it is
    assert np.array_equal(turned, [theirs[name] for name in "xypt"])
