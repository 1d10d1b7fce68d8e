"""Two real processes that share mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from onward.core.group import Group
from onward.train.ranks import Ranks

Task = Callable[[Group], dict[str, Tensor]]


def together(task: Task, folder: Path, size: int = 2) -> list[dict[str, Tensor]]:
    """What ``task`` (a function of a module) gives in each of ``size`` processes on gloo."""
    mp.spawn(_member, (task, str(folder), size), nprocs=size)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(size)]


def _member(rank: int, task: Task, folder: str, size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    save_file({name: t.contiguous() for name, t in task(Ranks("cpu")).items()}, Path(folder) / f"{rank}.safetensors")
    dist.destroy_process_group()
