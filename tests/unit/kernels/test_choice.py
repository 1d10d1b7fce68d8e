"""What is measured about the machine, and how a user overrules it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from onward.kernels import choice
from onward.kernels.choice import MEASURED, Choice, Share
from onward.kernels.compiled import KernelWarning, Use, using
from onward.kernels.rows import sparse_rows
from onward.kernels.sparse import pays


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty table that is kept nowhere, and nothing asked for."""
    table: dict[str, str] = {}
    monkeypatch.setattr(choice, "_remembered", lambda: table)
    monkeypatch.setattr(choice, "_read", dict)
    monkeypatch.setattr(choice, "_write", lambda table: None)
    monkeypatch.setattr(choice, "_USED", {})
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    before = dict(MEASURED)
    choice._asked.cache_clear()
    with using(Use.AUTO):
        yield
    choice._asked.cache_clear()
    MEASURED.clear()
    MEASURED.update(before)


def ask(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(choice.VARIABLE, text)
    choice._asked.cache_clear()


def two_ways() -> Choice:
    return Choice("test", {"plain": lambda: sum(range(30_000)), "quick": lambda: 0})


def test_the_fastest_way_is_found_once_for_a_class_of_sizes() -> None:
    ways = two_ways()
    assert ways.best((100,)) is ways.ways["quick"]
    choice._remembered()["test: 128, 1 threads"] = "plain"
    assert ways.best((128,)) is ways.ways["quick"]
    choice._USED.clear()
    assert ways.best((128,)) is ways.ways["plain"]
    assert ways.best((129,)) is ways.ways["quick"]
    with using(Use.NEVER):
        assert ways.best((129,)) is ways.ways["plain"]


def test_answers_of_an_earlier_process_are_given_again() -> None:
    ways = two_ways()
    choice.pin({"test: 128, 1 threads": "plain", "test: 256, 1 threads": "gone", "unknown: 128, 1 threads": "plain"})
    assert ways.best((128,)) is ways.ways["plain"]
    assert ways.best((256,)) is ways.ways["quick"]
    assert choice.used() == {"test: 128, 1 threads": "plain", "test: 256, 1 threads": "quick"}
    assert choice._remembered() == {"test: 256, 1 threads": "quick"}


def test_a_process_that_was_faster_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, str]] = []
    monkeypatch.setattr(choice, "_read", lambda: {"test: 128, 1 threads": "plain", "other: 1, 1 threads": "x"})
    monkeypatch.setattr(choice, "_write", written.append)
    ways = two_ways()
    assert ways.best((128,)) is ways.ways["plain"]
    assert not written
    assert ways.best((256,)) is ways.ways["quick"]
    assert written[0] == {**choice._read(), "test: 256, 1 threads": "quick"}


def test_an_answer_kept_from_an_older_version_is_measured_again() -> None:
    ways = two_ways()
    choice._remembered()["test: 128, 1 threads"] = "a way that is gone"
    assert ways.best((128,)) is ways.ways["quick"]


def test_the_environment_overrules_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, share = two_ways(), Share("test share")
    ask(monkeypatch, "test = plain, test share=0.125")
    assert ways.best((1,)) is ways.ways["plain"]
    assert share.below((1,), lambda: 0.5) == 0.125
    with using(Use.ALWAYS):
        assert share.below((1,), lambda: 0.5) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tset=plain", "names 'tset'; expected one of .*gather.*linear"),
        ("linear=fast", "linear=fast; expected blas"),
        ("gather=2", "gather=2; expected a share from 0 to 1"),
        ("gather", "gather=; expected a share"),
    ],
)
def test_what_cannot_be_asked_for_is_told_of(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    ask(monkeypatch, text)
    with pytest.warns(KernelWarning, match=said):
        assert choice._asked() == {}


def test_sparse_products_are_taken_below_the_share_at_which_times_meet() -> None:
    x = torch.zeros(4, 64, 512)
    x[..., ::8] = 1
    rows = sparse_rows(x, most=1.0)
    assert rows is not None
    half = Share("half")
    for share, leaving, taken in ((0.2, 0.0, True), (0.1, 0.0, False), (0.2, 0.5, False)):
        choice.pin({"half: 8, 1 threads": str(share)})
        assert pays(half, (8,), rows, lambda rows: None, lambda x: None, leaving) is taken


def test_the_break_even_share_is_measured_on_a_trial_of_the_same_shape() -> None:
    x = torch.zeros(4, 64, 512)
    rows = sparse_rows(x, most=1.0)
    assert rows is not None
    seen: list[torch.Size] = []
    share = Share("measured")
    assert pays(share, (8,), rows, lambda rows: seen.append(rows.shape), lambda dense: seen.append(dense.shape))
    assert set(seen) == {x.shape}
    assert share.accepts(choice._remembered()["measured: 8, 1 threads"])
