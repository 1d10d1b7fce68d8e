"""The loss that a teacher's logits make, who may be the teacher, and how it joins an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from onward.core.draws import Draws
from onward.core.errors import ObjectiveMismatch, ShapeError
from onward.core.network import Network
from onward.core.objective import Loss, Objective
from onward.core.rule import LearningRule
from onward.core.run import logits
from onward.core.sequence import Sequence, Static
from onward.distil.features import Features, Listener, Maps, Matching, Site


@dataclass(frozen=True)
class Soft(Loss):
    """tau^2 KL(p || softmax(o / tau)), p = softmax(z / tau) of logits z ``[B, m]``; labels have no say.

    The gradient is tau (softmax(o / tau) - p): the factor tau^2 keeps its size where tau is large (Hinton et al. 2015).

    >>> import torch
    >>> o = torch.tensor([[2.0, 0.0]])
    >>> float(Soft(o, temperature=4.0)(o, torch.tensor([0])))
    0.0
    """

    targets: Tensor
    temperature: float = 1.0

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.__call__`."""
        p, tau = self._soft(self.targets.to(o)), self.temperature
        return tau**2 * (p.exp() * (p - self._soft(o))).sum(-1)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.gradient`."""
        return self.temperature * (self._soft(o).exp() - self._soft(self.targets.to(o)).exp())

    def _soft(self, o: Tensor) -> Tensor:
        return (o / self.temperature).log_softmax(-1)


class Teacher(ABC):
    """Who says what a mini-batch is."""

    @abstractmethod
    def __call__(self, student: Network, objective: Objective, x: Sequence, chunk: int) -> Tensor:
        """Logits ``[B, m]`` of the samples ``x``, without a gradient; ``objective`` is the student's own."""

    @abstractmethod
    def check(self, objective: Objective) -> None:
        """Raises `ObjectiveMismatch` where nothing can be learned from it."""


@dataclass(frozen=True)
class Other(Teacher):
    """A frozen network, with the ``objective`` that it was trained for, which says how its outputs become logits.

    Inputs that stand still are shown for ``steps`` steps, others for as many as they have. One forward pass a
    mini-batch, in evaluation mode.
    """

    net: Network
    objective: Objective
    steps: int

    def __call__(self, student: Network, objective: Objective, x: Sequence, chunk: int) -> Tensor:
        """See `Teacher.__call__`."""
        return self._say(self._shown(x), chunk)

    def tell(self, x: Sequence, chunk: int, sites: list[Site]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits, and the mean activations of layers, by node index of the student's."""
        shown, listener = self._shown(x), Listener(sites)
        return self._say(shown, chunk, listener), listener.means(shown.steps)

    def _shown(self, x: Sequence) -> Sequence:
        return Static(x.x, self.steps) if isinstance(x, Static) else x

    def _say(self, x: Sequence, chunk: int, listener: Listener | None = None) -> Tensor:
        return logits(self.net, self.objective, x, chunk=chunk, watch=listener)

    def check(self, objective: Objective) -> None:
        """See `Teacher.check`: it serves all."""


class Itself(Teacher):
    """The student: the mean of its own logits over time teaches every step of it (self-distillation).

    The mean is that of a forward pass of its own, before the sequence is learned: rules that learn while it runs need
    it at the first step. In evaluation mode, so without dropout and injected noise.
    """

    def __call__(self, student: Network, objective: Objective, x: Sequence, chunk: int) -> Tensor:
        """See `Teacher.__call__`."""
        return logits(student, objective, x, chunk=chunk)

    def check(self, objective: Objective) -> None:
        """See `Teacher.check`."""
        if not objective.per_step:
            raise ObjectiveMismatch(
                "a network that teaches itself makes its steps agree with their mean, and a readout objective looks at "
                "the mean alone; choose --objective per-step, or another teacher (--distil run --distil.teacher RUN)"
            )


class Teaching(ABC):
    """Makes the objective of a mini-batch."""

    @abstractmethod
    def join(self, objective: Objective, net: Network, rule: LearningRule, sample: Sequence, draws: Draws) -> None:
        """Prepares for ``net``, learned by ``rule`` (bound already), which then keeps what is learned beside.

        Raises `ObjectiveMismatch` or `ShapeError` where they do not fit.
        """

    @abstractmethod
    def __call__(self, objective: Objective, net: Network, x: Sequence, chunk: int) -> Objective:
        """The objective that ``net`` learns ``x`` with, in place of ``objective``."""


class Labels(Teaching):
    """Labels alone."""

    def join(self, objective: Objective, net: Network, rule: LearningRule, sample: Sequence, draws: Draws) -> None:
        """See `Teaching.join`: they serve all."""

    def __call__(self, objective: Objective, net: Network, x: Sequence, chunk: int) -> Objective:
        """``objective`` itself."""
        return objective


@dataclass(frozen=True)
class Distilled(Teaching):
    """(1 - share) of what labels say and ``share`` of what the ``teacher`` says, at a ``temperature``.

    >>> import torch
    >>> from torch import nn
    >>> from onward.core import CrossEntropy, PerStep
    >>> net = Network(nn.Sequential(nn.Linear(4, 2)))
    >>> x = Static(torch.zeros(3, 4), steps=2)
    >>> objective = Distilled(Itself(), share=0.5)(PerStep(CrossEntropy()), net, x, chunk=2)
    >>> objective.step_losses(net(x.chunk(0, 2)), torch.tensor([0, 1, 1]), steps=2).shape
    torch.Size([2, 3])
    """

    teacher: Teacher
    share: float = 0.7
    temperature: float = 4.0

    def join(self, objective: Objective, net: Network, rule: LearningRule, sample: Sequence, draws: Draws) -> None:
        """See `Teaching.join`."""
        self.teacher.check(objective)

    def __call__(self, objective: Objective, net: Network, x: Sequence, chunk: int) -> Objective:
        """See `Teaching.__call__`."""
        return objective.mixed(Soft(self.teacher(net, objective, x, chunk), self.temperature), self.share)


class Matched(Teaching):
    """As `Distilled`, by another network whose hidden layers are matched, too: see `onward.distil.features`."""

    def __init__(self, teacher: Other, share: float, temperature: float, features: Features):
        self.teacher, self.share, self.temperature, self.features = teacher, share, temperature, features
        self.sites, self.maps = list[Site](), Maps({})

    def join(self, objective: Objective, net: Network, rule: LearningRule, sample: Sequence, draws: Draws) -> None:
        """See `Teaching.join`."""
        self.teacher.check(objective)
        if not rule.traits.inner:
            raise ObjectiveMismatch(
                "features of a teacher are asked of hidden layers, and this rule learns from the output alone (trait "
                "inner); leave out --distil.features, or choose rule 'bptt', 'eprop', or one of the credit grid such "
                "as 'ottt'"
            )
        self.sites, self.maps = self.features.pair(net, self.teacher.net, sample, draws)
        rule.add_module("feature_maps", self.maps)  # the optimiser and checkpoints find it there

    def __call__(self, objective: Objective, net: Network, x: Sequence, chunk: int) -> Objective:
        """See `Teaching.__call__`."""
        z, activations = self.teacher.tell(x, chunk, self.sites)
        mixed = objective.mixed(Soft(z, self.temperature), self.share)
        return mixed.asking(Matching(activations, self.maps, self.features.weight))


def check_fit(features: tuple[int, ...], classes: int, own_features: tuple[int, ...], own_classes: int) -> None:
    """Raises `ShapeError` where a teacher of ``features`` and ``classes`` looks at other samples than the student."""
    if (features, classes) != (own_features, own_classes):
        raise ShapeError(
            f"the teacher takes samples of shape {list(features)} and tells {classes} classes apart; this run has "
            f"{list(own_features)} and {own_classes}: choose a teacher that was trained on data of the same kind"
        )
