"""A NIR file in another library: ``python benchmarks/peers/nir_worker.py snntorch FILE.nir INPUTS.npz SPIKES.npz``.

Run by an interpreter that has the library; needs numpy and torch besides. ``INPUTS.npz`` holds ``x``
``[B, T, *features]``, ``dt``, and ``double``, whether to compute in float64. Samples go through one at a time, each
from fresh states; what the modules of neurons send is written as ``[B, T, neurons]``, what comes out as ``output``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF)


def snntorch(graph: Any, dt: float) -> nn.Module:  # noqa: ARG001
    """Its time step is 1e-4 s, whatever is asked for."""
    from snntorch.import_nir import import_from_nir

    return import_from_nir(graph)


def norse(graph: Any, dt: float) -> nn.Module:
    """Its importer, which knows LIF nodes as LIFBoxCell."""
    from norse.torch import from_nir

    return from_nir(graph, dt=dt)


def fired(net: nn.Module, names: list[str], x: Tensor) -> dict[str, np.ndarray]:
    """Spikes of the modules called ``names`` over one sample ``[T, *features]``."""
    seen: dict[str, list[Tensor]] = {name: [] for name in [*names, "output"]}
    modules = dict(net.named_modules())
    handles = [modules[name].register_forward_hook(_keep(seen[name])) for name in names]
    state = None
    for step in x:
        out = net(step[None], state)
        out, state = out if isinstance(out, tuple) else (out, None)
        seen["output"].append(out.detach().flatten())
    for handle in handles:
        handle.remove()
    return {name: torch.stack(kept).numpy() for name, kept in seen.items()}


def _keep(kept: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, out: Any) -> None:
        kept.append((out[0] if isinstance(out, tuple) else out).detach().flatten())

    return hook


def main(library: str, file: str, inputs: str, to: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with np.load(inputs) as told:
        x, dt, double = torch.from_numpy(told["x"]), float(told["dt"]), bool(told["double"])
    found: dict[str, list[np.ndarray]] = {}
    for sample in x.double() if double else x:
        graph = nir.read(file)
        names = [name.replace(".", "_") for name, node in graph.nodes.items() if isinstance(node, NEURONS)]
        net: Any = {"snntorch": snntorch, "norse": norse}[library](graph, dt)
        with torch.no_grad():
            for name, spikes in fired(net.double() if double else net, names, sample).items():
                found.setdefault(name, []).append(spikes)
    np.savez(to, **{name: np.stack(parts) for name, parts in found.items()})


if __name__ == "__main__":
    sys.stdout = sys.stderr
    main(*sys.argv[1:])
