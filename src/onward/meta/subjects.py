"""What a meta-training trains: the learned optimiser itself, or a query network beside one that is frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import nn

from onward._tensors import fingerprint
from onward.core.errors import ConfigError
from onward.core.registry import Choice, Registry
from onward.optim import (
    Architecture,
    Cell,
    QueryRNN,
    dc_gain,
    initial_cell,
    read_cell,
    spectral_radius,
    write_cell,
    write_query,
)
from onward.optim.meta import Course, Demand, MetaTrainer, Trainer, demand
from onward.optim.meta_query import QueryTrainer, Search, query_demand
from onward.optim.query import PENALTY


@dataclass(frozen=True)
class Terms:
    """How a subject is trained: as the table [meta] says; ``sizes`` are those of a task's tensors, ``memory`` bytes."""

    network: Architecture
    course: Course
    lr: float
    clamp: float
    seed: int
    device: str
    sizes: Sequence[int]
    memory: int


class Subject(ABC):
    """What is trained; ``use`` are the flags that use its file, in front of it."""

    use: str
    noun: str

    @abstractmethod
    def trainer(self, terms: Terms) -> tuple[Trainer[Any], Demand]:
        """A trainer of a fresh one, and the memory that a window takes. Raises `OnwardError`."""

    @abstractmethod
    def write(self, path: Path, learned: nn.Module, record: Mapping[str, Any]) -> None:
        """Writes what was learned."""

    def files(self) -> dict[str, dict[str, int | str]]:
        """What tells whether the files that its options name are the same."""
        return {}

    def filter(self, learned: nn.Module) -> tuple[float | None, float | None]:
        """Gain for a steady gradient and spectral radius, where it is a linear filter of small gradients."""
        return None, None


class Update(Subject):
    """The learned optimiser."""

    use, noun = "--optim lstm --optim.weights", "optimiser"

    def trainer(self, terms: Terms) -> tuple[Trainer[Any], Demand]:
        """See `Subject.trainer`."""
        cell = initial_cell(terms.network, terms.seed).to(terms.device)
        memory = demand(cell, terms.sizes, terms.course.window, terms.memory)
        return MetaTrainer(cell, terms.course, lr=terms.lr, clamp=terms.clamp, block=memory.block), memory

    def write(self, path: Path, learned: nn.Module, record: Mapping[str, Any]) -> None:
        """See `Subject.write`."""
        assert isinstance(learned, Cell)
        write_cell(path, learned, record)

    def filter(self, learned: nn.Module) -> tuple[float | None, float | None]:
        """See `Subject.filter`."""
        assert isinstance(learned, Cell)
        return _told(lambda cell: float(dc_gain(cell)), learned), _told(spectral_radius, learned)


def _told(measure: Callable[[Cell], float], cell: Cell) -> float | None:
    """A number of the linear filter, where the cell is one."""
    try:
        return measure(cell)
    except ConfigError:
        return None


class Query(Subject):
    """A query network beside the optimiser in the file ``weights``, which stays as it is."""

    use, noun = "--rule query --rule.weights", "query network"

    def __init__(self, weights: str | None, search: Search, hidden: int, penalty: float):
        self.weights, self.search, self.hidden, self.penalty = weights, search, hidden, penalty

    def trainer(self, terms: Terms) -> tuple[Trainer[Any], Demand]:
        """See `Subject.trainer`."""
        if terms.network != Architecture():
            raise ConfigError(
                f"the optimiser beside a query network is the one in {self.weights}, and --meta.network says another; "
                "leave it out (--meta.subject.hidden sets the units of the query network)"
            )
        cell = read_cell(self._file()).to(terms.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(terms.seed)
            query = QueryRNN(self.hidden, self.penalty).to(terms.device)
        memory = query_demand(cell, query, self.search.directions, terms.sizes, terms.course.window, terms.memory)
        search = Search(self.search.eps, self.search.directions, terms.seed)
        trainer = QueryTrainer(query, cell, terms.course, search, lr=terms.lr, clamp=terms.clamp, block=memory.block)
        return trainer, memory

    def write(self, path: Path, learned: nn.Module, record: Mapping[str, Any]) -> None:
        """See `Subject.write`."""
        assert isinstance(learned, QueryRNN)
        write_query(path, learned, record)

    def files(self) -> dict[str, dict[str, int | str]]:
        """See `Subject.files`."""
        return {"meta.subject.weights": fingerprint(self._file())}

    def _file(self) -> Path:
        if self.weights is None:
            raise ConfigError(
                "a query network is trained beside a learned optimiser that is there already; make one with `onward "
                "meta-train --rule forward-difference --rule.directions 20`, then add --meta.subject.weights FILE"
            )
        path = Path(self.weights).expanduser()
        if not path.is_file():
            raise ConfigError(f"--meta.subject.weights {self.weights}: there is no such file; put it back, or name it")
        return path


class QueryChoice(Choice):
    """Options of the training of a query network."""

    weights: str | None = Field(None, description="file of the learned optimiser, which stays as it is")
    hidden: int = Field(10, ge=1, le=256, description="units of the query network")
    penalty: float = Field(PENALTY, ge=0, description="what the square of its outputs counts, at every update")
    eps: float = Field(0.03, gt=0, description="how far weights are moved, in units of noise")
    directions: int = Field(1, ge=1, description="directions that are tried for an update")


subjects: Registry[Subject] = Registry("subject")
subjects.register("update", Choice, lambda choice: Update(), "the learned optimiser")
subjects.register(
    "query",
    QueryChoice,
    lambda c: Query(c.weights, Search(c.eps, c.directions), c.hidden, c.penalty),
    "a query network, for the rule of this name",
)

SubjectChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(subjects.parse)]
