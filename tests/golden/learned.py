"""What Onward computes for the cases of learned optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.local import sampled, spiking
from golden.runs import Results
from golden.weights import optimisers
from onward.optim import Architecture, Cell, LSTMOptimizer, QueryRNN, Watch
from onward.optim.cell import Coordinatewise
from onward.optim.features import BranchedLog
from onward.optim.meta import Trail, meta_gradient
from onward.optim.siblings import GatedStep, NormedLSTM

Parts = Mapping[str, Tensor]
BLOCKS = (7, 1000)
GOLDEN_EPS = 1e-6
"""Inside the logarithm of the recorded features."""


def zo_snn(trial: Trial) -> Results:
    """Everything that Onward has to say about a case, told apart by its inputs."""
    for inputs, compute in _LAYOUTS.items():
        if inputs <= trial.inputs.keys():
            return compute(trial)
    raise Unreadable(f"inputs of no layout that is known: {', '.join(sorted(trial.inputs)[:5])} ...")


def cell_from(weights: Parts) -> Cell:
    """A cell with the authors' weights, by their names."""
    readout = weights["outputer.weight"]
    layers = sum(name.startswith("update_rnn.weight_ih") for name in weights)
    cell = Cell(Architecture(hidden=readout.shape[1], layers=layers)).to(readout.dtype)
    fill(cell.core, weights, "update_rnn", "outputer")
    return cell


def fill(core: Coordinatewise, weights: Parts, rnn: str, readout: str) -> None:
    """Loads the weights of an LSTM and its readout."""
    state = {"readout.weight": weights[f"{readout}.weight"]}
    for layer in range(core.layers):
        for kind in ("ih", "hh"):
            state[f"rnn.{layer}.weight_{kind}"] = weights[f"{rnn}.weight_{kind}_l{layer}"]
    core.load_state_dict(state)


def authors_names(cell: Cell) -> Iterator[tuple[str, Tensor]]:
    """The cell's parameters by the authors' names."""
    for layer, part in enumerate(cell.core.rnn):
        for kind in ("ih", "hh"):
            yield f"update_rnn.weight_{kind}_l{layer}", part.get_parameter(f"weight_{kind}")
    yield "outputer.weight", cell.core.readout.weight


def part(tensors: Parts, prefix: str) -> dict[str, Tensor]:
    """The tensors called ``prefix.*``, by the rest of their names."""
    return {key.removeprefix(f"{prefix}."): t for key, t in tensors.items() if key.startswith(f"{prefix}.")}


def given_gradients(trial: Trial) -> Results:
    """The updates for given gradients, tensor by tensor and all in one; and the gradient with respect to the LSTM."""
    cell, grads = cell_from(part(trial.params, "lstm")), trial.input("grads")
    for block in BLOCKS:
        yield from _flat_steps(cell, grads, block)
        yield from _updates(trial, cell, grads, block)
        yield from _meta_gradient(cell, grads, block)


def _flat_steps(cell: Cell, grads: Tensor, block: int) -> Results:
    state = cell.rest(grads[0])
    for step, g in enumerate(grads):
        yield f"step{step}.delta", cell.move(cell.see(g, state), state, block)
        yield f"step{step}.h", state["h"]
        yield f"step{step}.c", state["c"]


def _updates(trial: Trial, cell: Cell, grads: Tensor, block: int) -> Results:
    sizes = [size for out in trial.setting("shapes") for size in (prod(out), out[1])]
    ends = [0, *accumulate(sizes)]
    tensors = [nn.Parameter(trial.input("theta0")[a:b].clone()) for a, b in pairwise(ends)]
    optimizer = LSTMOptimizer(tensors, cell, block=block, watch=Watch(None, None))
    for step, g in enumerate(grads):
        for tensor, (a, b) in zip(tensors, pairwise(ends), strict=True):
            tensor.grad = g[a:b]
        optimizer.step()
        yield f"step{step}.theta", torch.cat(list(tensors))


def _meta_gradient(cell: Cell, grads: Tensor, block: int) -> Results:
    """Of <w, theta> after the last step, so that every update owes the same."""
    rest, w = cell.rest(grads[0]), torch.linspace(-1, 1, grads.shape[1], dtype=grads.dtype)
    cell.zero_grad()
    meta_gradient(cell, [Trail(rest["h"], rest["c"], grads[..., None], w.expand_as(grads))], block)
    for name, parameter in authors_names(cell):
        assert parameter.grad is not None
        yield f"meta_grad.{name}", parameter.grad


def siblings(trial: Trial) -> Results:
    """Features of gradients, and the two older optimisers."""
    features = BranchedLog(eps=GOLDEN_EPS)
    yield "preprocessed", features(trial.input("gradient")[:, 0], {})
    yield from _normed(trial)
    yield from _gated(trial, features)


def _normed(trial: Trial) -> Results:
    hidden, layers, seen = trial.setting("hidden"), trial.setting("layers"), trial.input("features")
    optimizer = NormedLSTM(hidden, layers, seen.shape[2]).to(seen.dtype)
    named = {key.replace("cell", "cells.", 1): t for key, t in part(trial.params, "lnlstm").items()}
    optimizer.load_state_dict(named)
    h = c = seen.new_zeros(layers, seen.shape[1], hidden)
    for step, x in enumerate(seen):
        update, h, c = optimizer(x, h, c)
        yield f"lnlstm.step{step}.delta", update
        yield f"lnlstm.step{step}.c_last", c[-1]


def _gated(trial: Trial, features: BranchedLog) -> Results:
    theta = trial.input("theta0")
    optimizer, gates = GatedStep().to(theta.dtype), theta.new_zeros(len(theta), 2)
    optimizer.load_state_dict(part(trial.params, "fast"))
    for step, (g, loss) in enumerate(zip(trial.input("grads"), trial.input("losses"), strict=True)):
        theta, gates = optimizer(theta, g, features(g, {}), loss, gates)
        yield f"fast.step{step}.theta", theta
        yield f"fast.step{step}.forget", gates[:, :1]
        yield f"fast.step{step}.input", gates[:, 1:]


class Smooth:
    """The small smooth network of the zeroth-order case: its loss as a function of all parameters in one vector."""

    def __init__(self, trial: Trial):
        self.shapes, self.x, self.y = trial.setting("shapes"), trial.input("x"), trial.input("y")

    def __call__(self, theta: Tensor) -> Tensor:
        """The mean cross-entropy."""
        h = self.x
        for index, (into, out) in enumerate(self.shapes):
            weight, bias, theta = theta.split([into * out, out, len(theta) - (into + 1) * out])
            h = F.linear(h if index == 0 else h.tanh(), weight.view(out, into), bias)
        return F.cross_entropy(h, self.y)

    def estimate(self, theta: Tensor, directions: Tensor, mu: float) -> Tensor:
        """The mean of forward difference times direction."""
        quotients = torch.stack([(self(theta + mu * u) - self(theta)) / mu for u in directions])
        return (quotients[:, None] * directions).mean(0)


def zeroth_order(trial: Trial) -> Results:
    """Difference quotients, and the optimisers that live on them."""
    loss, mu = Smooth(trial), trial.setting("mu")[0]
    yield from optimisers(trial)
    parameter = nn.Parameter(trial.input("theta0").clone())
    optimizer = LSTMOptimizer([parameter], cell_from(part(trial.inputs, "lstm")))
    for step, u in enumerate(trial.input("directions")):
        parameter.grad = loss.estimate(parameter.detach(), u, mu)
        optimizer.step()
        yield f"lstm.step{step}.theta", parameter.detach().clone()
    yield from _query(trial, loss, mu)


def _query(trial: Trial, loss: Smooth, mu: float) -> Results:
    weights, theta = part(trial.inputs, "query"), trial.input("theta0")
    query, cell = QueryRNN().to(theta.dtype), cell_from(weights)
    fill(query.core, weights, "query_u_rnn", "query_u_outputer")
    g = update = torch.zeros_like(theta)
    asking, moving = query.rest(theta), cell.rest(theta)
    for step, u in enumerate(trial.input("directions")):
        std, penalty = query(g, update, asking)
        std = std.detach()
        g = loss.estimate(theta, u * std.abs(), mu)
        update = cell.move(cell.see(g, moving), moving, BLOCKS[0])
        theta = theta + update
        found = {"std": std, "gradient_estimate": g, "delta": update, "reg_loss": penalty, "theta": theta}
        yield from ((f"query.step{step}.{key}", value) for key, value in found.items())


def through_training(trial: Trial) -> Results:
    """Meta-training of the LSTM through a spiking network."""
    from golden.meta_training import meta_training

    return meta_training(trial)


_LAYOUTS: dict[frozenset[str], Callable[[Trial], Results]] = {
    frozenset({"features", "gradient", "losses"}): siblings,
    frozenset({"grads", "theta0"}): given_gradients,
    frozenset({"directions", "theta0"}): zeroth_order,
    frozenset({"theta0.model0", "lstm.outputer.weight"}): through_training,
    frozenset({"u_minus_threshold", "upstream"}): sampled,
    frozenset({"x", "y", "noise.forward0.layer1"}): spiking,
}
