"""Meta-training through a spiking network with recorded noise, as the authors do it; needs the LocalZO surrogate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from golden.cases import Trial
from golden.learned import authors_names, cell_from, part
from golden.runs import Results
from onward.core import CrossEntropy, GradSink, Network, PerStep, RecordedDraws, Static, run_sequence
from onward.neurons import Affine, SoftReset
from onward.optim.cell import Cell
from onward.optim.meta import Course, Learner, Look, MetaTrainer, Optimizee, meta_gradient, unroll
from onward.rules import rules
from onward.surrogates import LocalZO


class Spiking(Optimizee):
    """Two layers; what a spike costs is subtracted one step later, after the leak."""

    def __init__(self, trial: Trial):
        self.trial, leak = trial, trial.setting("beta")
        sizes = [trial.setting(name) for name in ("din", "dh", "nc")]
        layers: list[nn.Module] = []
        for into, out in pairwise(sizes):
            surrogate = LocalZO(trial.setting("delta"), 1)
            fires = Affine(leak, reset=SoftReset(1 / leak), ties_fire=False, surrogate=surrogate)
            layers += [nn.Linear(into, out), *([] if out == sizes[-1] else [nn.ReLU()]), fires]
        self.net = Network(nn.Sequential(*layers)).to(trial.x.dtype)
        nn.utils.vector_to_parameters(trial.input("theta0.model0"), self.net.parameters())
        self.rule, self.objective, self.sink = rules.build("bptt"), PerStep(CrossEntropy()), GradSink(self.net)
        self.rule.bind(self.net, self.objective, self._batch(1)[0], RecordedDraws({}))
        self.gradients: list[Tensor] = []
        self.path: list[Tensor] = []

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In the authors' order: layer by layer, weight and bias."""
        return list(self.net.parameters())

    def look(self, step: int, *, after: bool) -> Look:
        """See `Optimizee.look`: pass 0 of the recorded noise is only logged."""
        x, y = self._batch(1 + step)
        draws = RecordedDraws(self._noise(1 + 2 * step + after))
        outcome = run_sequence(self.net, self.rule, self.objective, x, y, self.sink, draws=draws)
        self.sink.flush()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.net.zero_grad()
        if after:
            self.path.append(nn.utils.parameters_to_vector(self.parameters).detach().clone())
        else:
            self.gradients.append(torch.cat([g.reshape(-1) for g in found]))
        return Look(float(outcome.loss), found)

    def _batch(self, number: int) -> tuple[Static, Tensor]:
        return Static(self.trial.x[number], self.trial.setting("T")), self.trial.input("y")[number]

    def _noise(self, forward: int) -> dict[tuple[str, str], Tensor]:
        names = [node.name for node in self.net.neurons]
        recorded = part(self.trial.inputs, f"noise.forward{forward}")
        return {("slope 0", name): recorded[f"layer{i}"] for i, name in enumerate(names, 1)}


def meta_training(trial: Trial) -> Results:
    """One model, window by window."""
    cell, task = cell_from(part(trial.inputs, "lstm")), Spiking(trial)
    trainer = MetaTrainer(cell, Course(trial.setting("optimizer_steps"), trial.setting("unroll")))
    learner, losses = Learner(cell, task, trainer.block), []
    for number, window in enumerate(trainer.course.windows):
        found, trails = unroll(learner, len(window), trainer.course.weight)
        losses += found
        meta_gradient(cell, trails, trainer.block)
        yield from _gradients(f"chunk{number}.lstm_grad", cell, torch.inf)
        yield from _gradients(f"chunk{number}.lstm_grad_clipped", cell, trainer.clamp)
        trainer.update()
        for name, parameter in authors_names(cell):
            yield f"chunk{number}.lstm_after.{name}", parameter.detach().clone()
    path = torch.tensor(losses, dtype=torch.float64)
    yield "loss_path", path
    yield "meta_loss", path[trial.setting("unroll") - 1 :: trial.setting("unroll")]
    yield "inner_gradients", torch.stack(task.gradients)
    yield "theta_after_each_step", torch.stack(task.path)


def _gradients(prefix: str, cell: Cell, most: float) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in authors_names(cell):
        assert parameter.grad is not None
        yield f"{prefix}.{name}", parameter.grad.clamp(-most, most)
