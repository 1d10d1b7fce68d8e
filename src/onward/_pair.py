"""One of two processes that add their numbers: imports torch alone, so that it is ready soon."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

RANKS = 2


def answer(folder: str, rank: int) -> Path:
    """The file in which a process leaves what it found."""
    return Path(folder) / f"rank-{rank}"


def add(folder: str, rank: int, seconds: float) -> None:
    """Meets the other process through a file in ``folder``, adds a tensor over both, and leaves the sum there.

    Where that fails it leaves the first line of the reason.
    """
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group(
            "gloo",
            init_method=(Path(folder) / "store").absolute().as_uri(),
            rank=rank,
            world_size=RANKS,
            timeout=timedelta(seconds=seconds),
        )
        numbers = torch.arange(4.0) + rank
        dist.all_reduce(numbers)
        dist.destroy_process_group()
        found = str(numbers.tolist())
    except Exception as error:  # told by the process that started this one
        found = (str(error).strip().splitlines() or [type(error).__name__])[0]
    answer(folder, rank).write_text(found, encoding="utf-8")
