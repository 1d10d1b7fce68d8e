"""Hebbian learning based orthogonal projection: what old tasks rely on is taken out of every later gradient.

For a synapse with inputs x and weight gradient G = sum delta x^T, rows H that span the inputs of old tasks:

    G <- G - G H^T H        so that dW x = 0 for every old x in the span of orthonormal rows

That is the gradient with x - H^T H x in the place of x. H learns from the same inputs (see
`onward.transforms.learners`): all rows in the first task, later only those that were added for the task. Forward
passes, errors and what the rule deposits stay what they are. Exact where H is; with a learned H what leaks is the part
of old inputs that its rows miss. Time: two products of [out, n] and [n, k] an update, and what learning H takes.
Memory: two matrices [k, n] a synapse. Source: Xiao et al. 2024 (ICLR).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onward.core.drawn import Drawn, Take
from onward.core.draws import Draws, Key
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.network import Network
from onward.core.rule import LearningRule
from onward.core.sink import Sink
from onward.core.synapse import Params
from onward.core.trace import Postsynaptic, Presynaptic
from onward.transforms.base import Transform
from onward.transforms.growth import Filled, Growth
from onward.transforms.guard import Projected, Updates, watched
from onward.transforms.learners import Hebbian, Learner
from onward.transforms.protectable import protectable, weight_of, width_of
from onward.transforms.site import Look, Site, Steps
from onward.transforms.subspace import Protected, Subspace, gram_error, orthonormal

LITTLE = 0.05
"""The share of a synapse's directions below which little is left to learn in."""

SKEWED = 0.5
"""The error of the Gram matrix from which on some direction is protected by half at most."""

Make = Callable[[int, int, Tensor], Learner]
"""A learner for the synapse in a place, of a width, in the dtype and on the device of a tensor."""


class State(nn.Module):
    """All that must survive a checkpoint: the number of the task, whether it goes on, updates so far, and the sites."""

    task: Tensor
    within: Tensor
    updates: Tensor

    def __init__(self, sites: list[Site], like: Tensor):
        super().__init__()
        for name, start in (("task", -1), ("within", 0), ("updates", 0)):
            self.register_buffer(name, torch.tensor(start, device=like.device))
        self.sites = nn.ModuleDict({f"synapse{site.node.index}": site for site in sites})


class Hlop(Transform):
    """See the module's docstring.

    ``make`` makes what learns the rows of a synapse, ``growth`` says how many there are, ``look`` what they learn from;
    ``patches`` is the share of a map's places whose patches count, drawn anew for every update. Synapses called in
    ``unprotected`` are left alone, as are frozen ones. ``project`` corrects the steps of optimisers that would undo the
    protection, which are refused otherwise. ``orthonormal`` makes rows so at the end of a task.

    Raises `ConfigError` for rules that deposit nothing, and `UnsupportedModule` for synapses that are no matrix.

    >>> from onward.core import GradSink, KeyedDraws
    >>> from onward.rules import rules
    >>> net = Network(nn.Sequential(nn.Linear(4, 2, bias=False)))
    >>> hlop = Hlop(net, GradSink(net), rules.build("bptt"), KeyedDraws(0), tasks=2)
    >>> hlop.begin_task(0)
    >>> hlop.deposit(net.synapses[0], torch.ones(1, 3, 4), torch.ones(1, 3, 2))
    >>> hlop.flush()
    >>> sorted(hlop.metrics())[0]
    'captured-energy/0'
    """

    def __init__(
        self,
        net: Network,
        inner: Sink,
        rule: LearningRule,
        draws: Draws,
        tasks: int,
        *,
        make: Make | None = None,
        growth: Growth | None = None,
        look: Look | None = None,
        patches: float = 1.0,
        unprotected: tuple[str, ...] = (),
        project: bool = True,
        orthonormal: bool = False,
    ):
        super().__init__(inner)
        _check_rule(rule)
        self.draws, self.tasks, self.share = draws, tasks, patches
        self.project, self.orthonormal = project, orthonormal
        growth, look, make = (
            growth or Filled(0.6, tasks),
            look or Steps(),
            make or (lambda place, width, like: Hebbian(width, like)),
        )
        nodes = protectable(net, unprotected)
        self.plans = [growth.plan(tasks, place, width_of(node)) for place, node in enumerate(nodes)]
        self.sites = [self._site(node, sum(self.plans[place]), make, place, look) for place, node in enumerate(nodes)]
        _check_processes(inner, look, self.sites)
        self.state = State(self.sites, next(net.parameters()))
        self.modules = self.state
        self.protected = [Protected(s.node.name, weight_of(s.node), s.subspace) for s in self.sites]
        self._by_node = {site.node.index: site for site in self.sites}
        self._weights = {one.weight: one.name for one in self.protected}
        self._within, self._remarks = False, list[str]()
        for site in self.sites:
            inner.revise(site.node, self._projecting(site.subspace))

    def open(self) -> None:
        """See `Sink.open`."""
        self._within = bool(self.state.within)
        super().open()

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`: the inputs are learned from, the deposit goes on unchanged."""
        self._see(node, pre)
        super().deposit(node, pre, post, bias_gain)

    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """See `Sink.contribute`: as for `deposit`."""
        self._see(node, pre)
        super().contribute(node, pre, grads)

    def add(self, parameter: nn.Parameter, grad: Tensor) -> None:
        """See `Sink.add`; raises `ConfigError` for a protected weight, whose inputs are not told."""
        if parameter in self._weights:
            raise ConfigError(
                f"a gradient of {self._weights[parameter]} came without the inputs it belongs to, so that nothing can "
                f"be protected; leave the synapse out with --transform.unprotected {self._weights[parameter]}"
            )
        super().add(parameter, grad)

    def add_drawn(self, drawn: Drawn) -> None:
        """See `Sink.add_drawn`; always refused."""
        raise ConfigError(_NO_DEPOSITS)

    def flush(self, take: Take = Drawn.store) -> None:
        """See `Sink.flush`."""
        if self._within:
            for site in self.sites:
                site.update(self.inner)
            self.state.updates += 1
        super().flush(take)

    def discard(self) -> None:
        """See `Sink.discard`."""
        for site in self.sites:
            site.forget()
        super().discard()

    def begin_task(self, number: int) -> None:
        """See `Transform.begin_task`: adds rows; raises `ConfigError` for tasks out of order."""
        self._expect(number)
        for site, plan in zip(self.sites, self.plans, strict=True):
            key = Key("subspace", site.node.name, number)
            space = site.subspace
            site.learner.begin(space, orthonormal(plan[number], space.rows.shape[1], self.draws, key, space.rows))
        self.state.task.fill_(number)
        self._mark(True)

    def begin_pass(self) -> None:
        """See `Transform.begin_pass`."""
        for site in self.sites:
            site.learner.restart()

    def end_task(self) -> None:
        """See `Transform.end_task`: fixes all rows; raises `ConfigError` where no task goes on."""
        if not bool(self.state.within):
            raise ConfigError("a task was ended, but none goes on; begin one with begin_task")
        for site in self.sites:
            site.learner.end(site.subspace)
            if self.orthonormal:
                site.subspace.orthonormalise()
            site.subspace.merge()
        self._mark(False)

    def gathers(self, inputs: Callable[[Node], int]) -> int:
        """See `Transform.gathers`: second moments, or the inputs themselves where these are fewer."""
        return sum(site.gathers(inputs(site.node)) for site in self.sites)

    def metrics(self) -> dict[str, float]:
        """Rows, directions left, error of the Gram matrix, captured energy, and lr times the largest eigenvalue."""
        found: dict[str, float] = {}
        for site in self.sites:
            name, space = site.node.name, site.subspace
            found[f"rows/{name}"] = float(space.used)
            found[f"directions-left/{name}"] = float(space.free)
            found[f"gram-error/{name}"] = gram_error(space.all)
            found[f"hebbian-rate/{name}"] = site.learner.rate()
            if int(site.learned):
                found[f"captured-energy/{name}"] = float(site.captured)
        return found

    def warnings(self) -> list[str]:
        """Rates that are too high, subspaces that leave little, rows that make no projector, corrected optimisers."""
        return [*self._remarks, *(text for site in self.sites for text in _troubles(site))]

    def guard(self, optimizer: Optimizer) -> Updates:
        """See `Transform.guard`."""
        updates = watched(optimizer, self.protected, self.project)
        self._remarks = []
        if isinstance(updates, Projected):
            self._remarks = [
                f"{type(optimizer).__name__} with these settings would undo the protection, so that its steps are "
                "projected; --optim momentum or layer-adam without weight decay need no correction"
            ]
        return updates

    def _site(self, node: Node, most: int, make: Make, place: int, look: Look) -> Site:
        weight, width = weight_of(node).detach(), width_of(node)
        subspace, learner = Subspace(most, width, weight), make(place, width, weight)
        return Site(node, subspace, learner, look, lambda places: self._chosen(node, places))

    def _chosen(self, node: Node, places: int) -> list[int] | None:
        if self.share >= 1 or places == 1:
            return None
        key = Key("patches", node.name, int(self.state.updates))
        return self.draws.subset(key, places, max(1, round(self.share * places)))

    def _see(self, node: Node, pre: Presynaptic) -> None:
        site = self._by_node.get(node.index)
        if self._within and site is not None:
            with torch.no_grad():
                site.see(pre)

    def _projecting(self, subspace: Subspace) -> Callable[[dict[str, Tensor]], None]:
        def change(grads: dict[str, Tensor]) -> None:
            if self._within:
                subspace.remove_from(grads["weight"])

        return change

    def _expect(self, number: int) -> None:
        after = int(self.state.task) + 1
        if number != after or bool(self.state.within):
            state = f"task {after - 1} has not ended" if bool(self.state.within) else f"task {after} comes next"
            raise ConfigError(f"task {number} was begun, but {state}; tasks are numbered from 0, one after the other")
        if number >= self.tasks:
            raise ConfigError(f"task {number} was begun, but subspaces were planned for {self.tasks} tasks")

    def _mark(self, within: bool) -> None:
        self.state.within.fill_(within)
        self._within = within


_NO_DEPOSITS = (
    "this rule tries weights out and tells no synapse what it heard, so that there is nothing to project; choose a "
    "rule that does, such as bptt, ottt, sltt, dsr, dfa or opzo, or --transform none"
)


def _check_rule(rule: LearningRule) -> None:
    if rule.traits.from_loss:
        raise ConfigError(_NO_DEPOSITS)


def _check_processes(inner: Sink, look: Look, sites: list[Site]) -> None:
    laterals = [site.learner.lateral for site in sites if isinstance(site.learner, Hebbian)]
    if inner.group.size > 1 and not (look.shares and all(lateral.shares for lateral in laterals)):
        raise ConfigError(
            f"{inner.group.size} processes share every mini-batch, and lateral weights that move at every step, or by "
            "spiking neurons, need all samples in one place; set --transform.schedule sequence and "
            "--transform.lateral analogue, or train with one process"
        )


def _troubles(site: Site) -> list[str]:
    return [*_unstable(site), *_full(site), *_skewed(site)]


def _unstable(site: Site) -> Iterator[str]:
    learner, rate = site.learner, site.learner.rate()
    if isinstance(learner, Hebbian) and learner.lr is not None and rate >= 1:
        largest = rate / learner.lr
        yield (
            f"Hebbian learning at {site.node} is unstable: its rate {learner.lr:g} times the largest eigenvalue of "
            f"what it hears, {largest:.4g}, is {rate:.3g} and must stay below 1; set --transform.lr below "
            f"{1 / largest:.2g} there, or leave it out, and it is chosen"
        )


def _full(site: Site) -> Iterator[str]:
    space, width = site.subspace, site.subspace.rows.shape[1]
    if space.free < LITTLE * width:
        yield (
            f"the subspace of {site.node} takes {width - space.free} of {width} directions: little is left to learn "
            "in; plan for fewer rows (--transform.fill, --transform.increment)"
        )


def _skewed(site: Site) -> Iterator[str]:
    error = gram_error(site.subspace.held)
    if error > SKEWED:
        yield (
            f"the rows of {site.node} are not orthonormal (error {error:.2f}), and protect old tasks in part only; "
            "train longer, set --transform.orthonormal, or use --transform gpm"
        )
