"""The data sets that can be fetched: what their publishers offer, and where it is put.

MNIST comes from PyTorch's mirror, as the original page no longer serves it; the others from their publishers. Sizes
and SHA-256 are those of the lists of tensorflow-datasets; they are of the files whose MD5 the publishers (MNIST:
torchvision) state. The digests of the files inside the CIFAR archives are those of torchvision for Ruby.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onward.data.download import Remote, fetch
from onward.data.extract import extract
from onward.data.known import Known


@dataclass(frozen=True)
class Published(ABC):
    """A data set as it is published: its files end up in the folder ``subfolder`` of a root."""

    subfolder: str
    origin: str

    @abstractmethod
    def get(self, root: Path, context: ssl.SSLContext | None = None) -> list[str]:
        """Fetches what is not there as it must be; the names of what was fetched. Raises as `fetch` and `extract`."""

    @abstractmethod
    def by_hand(self, root: Path) -> tuple[Path, list[Remote]]:
        """A folder, and the files that `get` needs no network for once they are in it."""


@dataclass(frozen=True)
class Loose(Published):
    """Files that are used as they are published."""

    remotes: tuple[Remote, ...]

    def get(self, root: Path, context: ssl.SSLContext | None = None) -> list[str]:
        """See `Published.get`."""
        return [remote.known.name for remote in self.remotes if fetch(remote, root / self.subfolder, context)]

    def by_hand(self, root: Path) -> tuple[Path, list[Remote]]:
        """See `Published.by_hand`."""
        folder = root / self.subfolder
        return folder, [remote for remote in self.remotes if not remote.known.matches(folder / remote.known.name)]


@dataclass(frozen=True)
class Packed(Published):
    """Files of one archive: ``members`` are their names in it. The archive is removed if it was fetched for that."""

    remote: Remote
    members: Mapping[str, Known]

    def get(self, root: Path, context: ssl.SSLContext | None = None) -> list[str]:
        """See `Published.get`."""
        folder, archive = root / self.subfolder, root / self.remote.known.name
        if all(known.matches(folder / known.name) for known in self.members.values()):
            return []
        fetched = fetch(self.remote, root, context)
        extract(archive, self.members, folder)
        if fetched:
            archive.unlink()
        return [archive.name] if fetched else []

    def by_hand(self, root: Path) -> tuple[Path, list[Remote]]:
        """See `Published.by_hand`."""
        return root, [self.remote]


def _idx(folder: str, origin: str, base: str, files: Mapping[str, tuple[int, str]]) -> Loose:
    remotes = (Remote(base + name, Known(name, size, f"sha256:{digest}")) for name, (size, digest) in files.items())
    return Loose(folder, origin, tuple(remotes))


def _cifar(folder: str, archive: Known, files: Mapping[str, tuple[int, str]]) -> Packed:
    members = {f"{folder}/{name}": Known(name, size, f"sha256:{digest}") for name, (size, digest) in files.items()}
    remote = Remote(f"https://www.cs.toronto.edu/~kriz/{archive.name}", archive)
    return Packed(folder, "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)", remote, members)


_BATCH = 30_730_000

PUBLISHED: Mapping[str, Published] = {
    "mnist": _idx(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": (
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            "train-labels-idx1-ubyte.gz": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            "t10k-images-idx3-ubyte.gz": (
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            "t10k-labels-idx1-ubyte.gz": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        },
    ),
    "fashion-mnist": _idx(
        "fashion-mnist",
        "https://github.com/zalandoresearch/fashion-mnist",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {
            "train-images-idx3-ubyte.gz": (
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            "train-labels-idx1-ubyte.gz": (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            "t10k-images-idx3-ubyte.gz": (
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            "t10k-labels-idx1-ubyte.gz": (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        },
    ),
    "cifar10": _cifar(
        "cifar-10-batches-bin",
        Known(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        {
            "data_batch_1.bin": (_BATCH, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            "data_batch_2.bin": (_BATCH, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            "data_batch_3.bin": (_BATCH, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            "data_batch_4.bin": (_BATCH, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            "data_batch_5.bin": (_BATCH, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            "test_batch.bin": (_BATCH, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        },
    ),
    "cifar100": _cifar(
        "cifar-100-binary",
        Known(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        {
            "train.bin": (153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
            "test.bin": (30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        },
    ),
}
