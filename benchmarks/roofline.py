"""What the machine could do at best: measured ceilings, and the least arithmetic and traffic of a rule.

    fraction of roofline = (FLOPs / matrix ceiling + bytes / memory ceiling) / measured time

``python -m benchmarks.roofline [--threads N]`` measures the ceilings and prints them as JSON. The model is kept simple:

* Products. A layer's forward product, its weight gradient and, where a rule back-propagates, its input gradient have
  2 FLOPs a weight use each; the first layer has no input gradient. SLTT-K takes gradients at K of T steps. Direct
  feedback (DFA, OPZO) has products with a ``[neurons, classes]`` matrix instead, OPZO a second one to learn it.
  Events cost Onward their measured density in the first layer, a still input one step instead of T; peers compute
  the first layer densely at every step.
* Passes. Every quantity below is written once and read once: drives, spikes, what is kept of the membrane; traces
  (OTTT, DFA, OPZO); credit at the drive and, with back-propagation, at the spike; pooled maps; normalised maps both
  ways. Input is read twice. Weights are moved ten times: two reads for products, one write of the gradient, and Adam's
  four reads and three writes.

It is a yardstick, not a bound: fused passes and caches can beat the traffic, as a better algorithm can the products.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from time import perf_counter

import torch
from torch.nn import functional as F

from benchmarks.contenders import ours_environment
from benchmarks.workloads import Workload

MATRIX, TRIAD, REPEATS = 2048, 2**26, 5
WEIGHT_MOVES = 10
TRACED = ("ottt", "dfa", "opzo")
DIRECT = ("dfa", "opzo")


@dataclass(frozen=True)
class Ceilings:
    """FLOPs a second of products in f32 and bf16, and bytes a second of long vectors."""

    f32: float
    bf16: float
    bandwidth: float
    threads: int

    def matrix(self, precision: str) -> float:
        """FLOPs a second in a precision."""
        return self.bf16 if precision == "bf16" else self.f32


@dataclass(frozen=True)
class Work:
    """What one update of a mini-batch needs at least."""

    flops: float
    bytes: float

    def fraction(self, seconds: float, ceilings: Ceilings, precision: str) -> float:
        """See the module's docstring."""
        return (self.flops / ceilings.matrix(precision) + self.bytes / ceilings.bandwidth) / seconds


@dataclass(frozen=True)
class Layer:
    """Of one sample and step: multiply-adds, inputs, outputs, weights, and outputs after pooling (0: no pooling)."""

    macs: float
    inputs: int
    outputs: int
    weights: int
    pooled: int = 0


def layers(workload: Workload) -> list[Layer]:
    """The layers with weights, in order."""
    shape, found = list(workload.features), []
    for kind, *sizes in workload.plan():
        if kind == "pool":
            shape[1:] = [side // sizes[0] for side in shape[1:]]
            found[-1] = Layer(**{**asdict(found[-1]), "pooled": prod(shape)})
        elif kind in ("conv", "linear"):
            weights = sizes[0] * sizes[1] * (9 if kind == "conv" else 1)
            inputs, shape = prod(shape), [sizes[1], *(shape[1:] if kind == "conv" else ())]
            positions = prod(shape) // sizes[1]
            found.append(Layer(weights * positions, inputs, prod(shape), weights))
    return found


def work(workload: Workload, rule: str, *, ours: bool, density: float, precision: str = "f32", k: int = 1) -> Work:
    """The least work of one update; ``density`` is the fraction of the input's cells that are active."""
    steps, size = workload.steps, 2 if precision == "bf16" else 4
    learned = k if rule == "sltt-k" else steps
    stack = layers(workload)
    flops = sum(_products(stack, rule, workload, steps, learned, ours, density))
    passes = sum(layer.outputs * _passes(rule, workload.norm, learned / steps) for layer in stack[:-1])
    pooled = sum(4 * layer.pooled for layer in stack)
    read = 2 * stack[0].inputs * (density * 8 / size if ours and density < 1 else 1)
    read /= steps if _once(workload, ours) else 1
    moved = WEIGHT_MOVES * sum(layer.weights for layer in stack) * 4
    rows = workload.batch * steps
    return Work(workload.batch * flops, rows * size * (passes + pooled + read) + moved)


def _once(workload: Workload, ours: bool) -> bool:
    return ours and workload.still


def _products(
    stack: list[Layer], rule: str, workload: Workload, steps: int, learned: int, ours: bool, density: float
) -> Iterator[float]:
    classes = stack[-1].outputs
    for place, layer in enumerate(stack):
        first = place == 0
        share = (density if ours else 1.0) if first else 1.0
        forward, gradient = (1, 1) if first and _once(workload, ours) else (steps, learned)
        yield 2 * layer.macs * share * (forward + gradient)
        if not first and rule not in DIRECT:
            yield 2 * layer.macs * learned
        if rule in DIRECT and place < len(stack) - 1:
            yield 2 * layer.outputs * classes * steps * (2 if rule == "opzo" else 1)


def _passes(rule: str, norm: bool, learned: float) -> float:
    """Reads and writes of one hidden neuron and step."""
    forward = 2 + 2 + (3 if norm else 0)
    kept_and_credit = 2 + (2 if rule in DIRECT else 4) + (3 if norm else 0)
    return forward + learned * kept_and_credit + (2 if rule in TRACED else 0)


def seconds(action: Callable[[], object]) -> float:
    """The shortest time of an action, after one that is not counted: a ceiling is what can be reached."""
    action()
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        action()
        times.append(perf_counter() - began)
    return min(times)


def products(dtype: torch.dtype) -> float:
    """FLOPs a second of the best product that torch has for matrices of `MATRIX` rows."""
    mkldnn = torch.ops.mkldnn
    x, w = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    actions = [lambda: F.linear(x, w)]
    if torch.backends.mkldnn.is_available() and (dtype is torch.float32 or mkldnn._is_mkldnn_bf16_supported()):
        actions.append(lambda: mkldnn._linear_pointwise(x, w, None, "none", [], ""))
    return 2 * MATRIX**3 / min(seconds(action) for action in actions)


def bandwidth() -> float:
    """Bytes a second of a = b + 2 c on vectors that no cache holds."""
    b, c = torch.ones(TRIAD), torch.ones(TRIAD)
    out = torch.ones(TRIAD)
    return 3 * 4 * TRIAD / seconds(lambda: torch.add(b, c, alpha=2, out=out))


def measure(threads: int | None) -> Ceilings:
    """The ceilings, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.roofline", *(["--threads", str(threads)] if threads else [])]
    environment = {**os.environ, **ours_environment()}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return Ceilings(**json.loads(said))


@torch.no_grad()
def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    found = Ceilings(products(torch.float32), products(torch.bfloat16), bandwidth(), torch.get_num_threads())
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
