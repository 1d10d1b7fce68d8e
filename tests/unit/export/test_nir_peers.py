"""NIR files in snnTorch and Norse: equal spikes on real digits, to the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.contenders import PEERS_FOLDER
from benchmarks.nir_peers import FEATURES, KINDS, STEPS, network, rows

from onward.export.nir import write_network
from onward.export.purpose import Purpose

PYTHON = PEERS_FOLDER / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="needs the other libraries: make peers")
@pytest.mark.parametrize(("name", "library"), [("LIF, tau 2", "snntorch"), ("LIF, tau 2, decay_input", "norse")])
def test_the_same_spikes(name: str, library: str, tmp_path: Path) -> None:
    pytest.importorskip("nir", reason="reads and writes graphs with the package nir")
    kind = next(kind for kind in KINDS if kind.name == name)
    file = tmp_path / "network.nir"
    write_network(file, network(kind), Purpose(features=FEATURES, classes=10, steps=STEPS), dt=kind.dt)
    for row in rows(file, name, {library: PYTHON}):
        assert " 0 of 120,000 states differ" in row
