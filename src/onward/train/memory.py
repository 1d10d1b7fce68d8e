"""How much memory an update takes beyond parameters, optimiser state and data."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any

import torch


class Meter(ABC):
    """A context; after it, ``peak_bytes`` is the most that torch held at once beyond the start.

    ``sees_releases``: what was there at the start and is freed meanwhile makes room.
    """

    sees_releases = True

    def __init__(self) -> None:
        self.peak_bytes = 0

    @abstractmethod
    def __enter__(self) -> Meter:
        """Starts measuring."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops measuring."""


class Off(Meter):
    """Measures nothing and costs nothing."""

    def __enter__(self) -> Off:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Allocations(Meter):
    """CPU: the running sum of all that torch's allocator takes and returns, as its profiler records it.

    Exact and repeatable, which the resident set size is not. Memory that numpy, numba or a library takes for
    itself is not in it.
    """

    sees_releases = False

    def __enter__(self) -> Allocations:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        # One cycle only; without acc_events some releases of torch warn that others would be forgotten.
        self._profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )
        self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profiler.__exit__(kind, error, trace)
        events: Any = self._profiler.profiler
        held = 0
        for event in events.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                self.peak_bytes = max(self.peak_bytes, held)


class CudaAllocations(Meter):
    """CUDA: the peak of torch's caching allocator above what was allocated at the start."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def __enter__(self) -> CudaAllocations:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._start = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.cuda.synchronize(self.device)
        self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - self._start


def meter(device: str, *, when: bool = True) -> Meter:
    """The meter for ``device``; one that does nothing unless ``when``."""
    if not when:
        return Off()
    return CudaAllocations(device) if device.startswith("cuda") else Allocations()
