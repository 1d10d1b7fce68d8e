"""The rules that every tiny network is tried with, and a representative part of the credit grid."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from onward.rules import rules
from reference.learned import query_weights

GRID = [
    {"name": "online", "temporal": temporal, "spatial": spatial, "local": local}
    for temporal, spatial, local in [
        ("ottt", "dfa", "ll"),
        ("ottt", "bp", "ll-igl"),
        ("ottt", {"name": "opzo", "schedule": "fresh", "law": "sphere"}, "ll-igl"),
        ("ottt", {"name": "opzo", "position": "before", "schedule": "codes", "inverse_alpha": True}, "none"),
        ("ottt", {"name": "opzo", "schedule": "two-pass", "correct_start": True}, "ll"),
        ("ottt", {"name": "opzo", "per": "step", "baseline": "mean", "position": "firing"}, "none"),
        ("sltt", "opzo", "ll"),
        ("sltt", "dkp", "ll-igl"),
        ("sltt", {"name": "zo", "law": "gaussian", "schedule": "hold"}, "ll-igl"),
        ("sltt", "feedback-alignment", "ll"),
        ({"name": "sltt-k", "k": 3}, "sign-symmetric", "none"),
        ({"name": "sltt-k", "k": 3, "rescale": True}, "opzo", "none"),
        ({"name": "sltt-k", "k": 2}, "dfa", "ll-igl"),
        ({"name": "ottt", "fidelity": "reference"}, "dkp", "ll"),
    ]
] + [
    {"name": "dfa", "error_delay": 2},
    {"name": "opzo", "error_delay": 1},
    {"name": "zo", "error_delay": 1},
]
"""A representative part of temporal x spatial x local, and of the options."""

SOLVED: dict[str, dict] = {"ide": {"solver": {"name": "gmres", "tolerance": 1e-14, "steps": 100}}}
"""Options with which rules that solve equations solve them to rounding."""

LINEAR: dict[str, dict] = {"es": {"directions": 2, "shaping": "none"}, "one-point": {"residual": False}}
"""Options with which updates are linear in the losses of parts of a batch, as tests of parts want them."""

FOLDER = TemporaryDirectory()
READING: dict[str, dict] = {"query": {"weights": query_weights(Path(FOLDER.name)), "share": 1.0}}
"""Options with which rules that read a file find one."""

OPTIONS: dict[str, dict] = {**SOLVED, **LINEAR, **READING}
RULES: list[dict] = [{"name": name, **OPTIONS.get(name, {})} for name in rules.names()]
