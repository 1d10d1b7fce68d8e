"""Tasks for a learned optimiser: fresh networks, and the gradients that a learning rule gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onward.core import GradSink, KeyedDraws, Network, Objective, run_sequence
from onward.core.errors import ConfigError, NonFiniteError
from onward.core.objective import objectives
from onward.core.rule import LearningRule
from onward.data import Batch, Dataset, Loader, augmentation, load
from onward.meta.config import MetaRecipe
from onward.optim.meta import Look, Optimizee
from onward.rules import rules
from onward.train.folder import Interface
from onward.train.networks import build_network
from onward.train.parts import (
    PRODUCTS,
    check_device,
    hold_out,
    resolve_chunk,
    resolve_objective,
    resolve_steps,
)


class RuleTask(Optimizee):
    """A network under a learning rule, from its first mini-batch on.

    The rule may be any that has one gradient a sequence, and its gradient stands for the loss's own. Both looks at a
    mini-batch see the same samples and draw other noise.
    """

    def __init__(
        self, net: Network, rule: LearningRule, objective: Objective, sink: GradSink, loader: Loader, chunk: int
    ):
        self.net, self.rule, self.objective, self.sink, self.loader = net, rule, objective, sink, loader
        self.chunk, self.draws, self.device = chunk, KeyedDraws(loader.seed), next(net.parameters()).device
        learned: list[nn.Parameter] = [*net.parameters(), *rule.parameters()]
        self._parameters = [p for p in learned if p.requires_grad]
        self._batch: tuple[int, Batch] | None = None

    @property
    def parameters(self) -> Sequence[Tensor]:
        """See `Optimizee.parameters`."""
        return self._parameters

    def look(self, step: int, *, after: bool) -> Look:
        """See `Optimizee.look`."""
        batch = self._of(step)
        outcome = run_sequence(
            self.net,
            self.rule,
            self.objective,
            batch.x.to(self.device),
            batch.y.to(self.device),
            self.sink,
            draws=self.draws,
            ids=batch.ids,
            sequence=2 * step + after,
            chunk=self.chunk,
        )
        self.sink.flush()
        gradients = [p.grad for p in self._parameters]
        for p in self._parameters:
            p.grad = None
        if not outcome.loss.isfinite():
            raise NonFiniteError("the loss")
        return Look(float(outcome.loss), gradients)

    def _of(self, step: int) -> Batch:
        """The mini-batch of a step; epochs follow one another."""
        if self._batch is None or self._batch[0] != step:
            self._batch = step, self.loader.batch(divmod(step, len(self.loader)))
        return self._batch[1]


class Tasks:
    """Makes the tasks of a meta-training: task number k is the same whenever it is made.

    Raises `OnwardError` when data, network, rule and objective do not fit, or the device is not there.
    """

    def __init__(self, recipe: MetaRecipe):
        self.recipe, run = recipe, recipe.run
        if run.train.init_from is not None:
            raise ConfigError("every task is a fresh network, and train.init_from names weights to start from; drop it")
        self.device = check_device(run.device)
        if run.train.threads is not None:
            torch.set_num_threads(run.train.threads)
        split = load(run.data)
        self.steps, self.classes = resolve_steps(split.train, run.train.steps), split.train.classes
        train, held = hold_out(split.train, recipe.meta.held, run.seed)
        assert held is not None
        self.parts: dict[str, Dataset] = {"train": train, "validation": held, "test": split.test}
        self.objective = objectives.build(resolve_objective(run))

    def learn(self, number: int) -> RuleTask:
        """A task to learn from."""
        return self._task(2 * number, self.parts[self.recipe.meta.learn_on])

    def judge(self, number: int) -> RuleTask:
        """A task to compare optimisers on; no task to learn from has its network or noise."""
        return self._task(2 * number + 1, self.parts[self.recipe.meta.judge_on])

    def data_record(self) -> dict[str, dict[str, int | str]]:
        """What tells whether data are the same."""
        used = {self.recipe.meta.learn_on, self.recipe.meta.judge_on}
        return {
            part: {"samples": len(self.parts[part]), "sha256": self.parts[part].fingerprint(self.steps)}
            for part in sorted(used)
        }

    def _task(self, number: int, data: Dataset) -> RuleTask:
        seed = (self.recipe.run.seed * 2**20 + number) % 2**63
        run = self.recipe.run.model_copy(update={"seed": seed})
        net = build_network(run, Interface(tuple(data.features), self.classes)).to(self.device)
        rule, draws = rules.build(run.rule), KeyedDraws(seed)
        if rule.traits.updates == "step":
            raise ConfigError(
                f"rule {run.rule.name} updates after every time step; meta-training needs one gradient a sequence, so "
                "leave out --rule.schedule, or choose another rule"
            )
        sample = data.batch(torch.arange(1), self.steps).x.to(self.device)
        rule.bind(net, self.objective, sample, draws)
        rule.to(self.device)
        loader = Loader(data, run.train.batch_size, self.steps, seed=seed, augment=augmentation(run.data, seed))
        chunk = resolve_chunk(run, net, rule, sample, draws)
        return RuleTask(net, rule, self.objective, GradSink(net, PRODUCTS[run.precision]), loader, chunk)
