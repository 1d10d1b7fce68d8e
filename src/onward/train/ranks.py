"""Several processes on one run, as ``torchrun`` starts them: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

# Its functions take the default group for an argument as it is when they are defined. Were they imported later, as
# torch does by itself, they would keep the group and its threads until the interpreter is gone, and those then abort.
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed import (  # documented, but not in __all__
    DistStoreError,  # pyright: ignore[reportPrivateImportUsage]
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.rendezvous import rendezvous

from onward.core.errors import OnwardError
from onward.core.group import ALONE, Group

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others in one sum."""
MARK = "onward-mark"


class RankFailed(OnwardError):
    """Another process of the run ended or cannot be reached."""


class Ranks(Group):
    """The processes that torch.distributed knows; what they exchange travels by way of ``device``."""

    def __init__(self, device: str):
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.sum_`: one operation for each dtype, however many tensors."""
        self._together(tensors, dist.all_reduce)

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.copy_`."""
        self._together(tensors, lambda whole: dist.broadcast(whole, src=0))

    def gather(self, text: str) -> list[str]:
        """See `Group.gather`; two sums of bytes, so that nothing but text can travel."""
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        self.sum_([lengths])
        table = torch.zeros(self.size, int(lengths.max()), dtype=torch.uint8)
        table[self.rank, : len(content)] = content
        self.sum_([table])
        return [bytes(row[:length].tolist()).decode() for row, length in zip(table, lengths.tolist(), strict=True)]

    def _together(self, tensors: Sequence[Tensor], operation: Callable[[Tensor], Any]) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            kinds[tensor.dtype].append(tensor.detach())
        for alike in kinds.values():
            whole = torch.cat([tensor.reshape(-1).to(self.device) for tensor in alike])
            with _failures():
                operation(whole)
            for tensor, part in zip(alike, whole.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view(tensor.shape))


@contextmanager
def _failures() -> Iterator[None]:
    """A process that is gone, told in words."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise RankFailed(
            f"process {os.environ.get('RANK', '0')} waited for the others in vain ({reason}); "
            "the cause is in the message of the process that failed first"
        ) from None


@contextmanager
def group_of(device: str) -> Iterator[Group]:
    """The processes that ``torchrun`` started this one with, joined while entered; this one alone without it.

    Every process uses one GPU, number LOCAL_RANK, where ``device`` is cuda.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and not several():
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device.startswith("cuda") else "gloo"
    with _failures():
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        fresh = _fresh(store, rank, size)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(device)
    finally:
        dist.destroy_process_group()


def _fresh(store: Store, rank: int, size: int) -> Store:
    """A part of ``store`` that no earlier process has written to.

    Processes that torchrun starts again find the store as their predecessors left it, with addresses at which nobody
    answers. So the first one invents a mark, and withdraws it once every other one has seen it.
    """
    if rank == 0:
        mark = uuid4().hex
        store.set(MARK, mark)
        store.wait([f"{mark}/{other}" for other in range(1, size)], PATIENCE)
        store.delete_key(MARK)
        store.set(f"{mark}/go", "")
        return PrefixStore(mark, store)
    while True:
        mark = store.get(MARK).decode()
        store.set(f"{mark}/{rank}", "")
        with suppress(DistStoreError):  # the mark of a process that is gone: there will be another one
            store.wait([f"{mark}/go"], timedelta(seconds=2))
            return PrefixStore(mark, store)


def several() -> bool:
    """Whether a launcher has started other processes beside this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether ``torchrun`` has started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
