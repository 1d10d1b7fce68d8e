"""Two processes, cut short and continued: the bits of one piece, in both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from onward.core.group import Group
from onward.train import Fitted, Parts, RunFolder, assemble, fit, parse_tokens
from onward.train.resume import restore, shared
from reference.pair import together
from reference.runs import after_calls


def state(parts: Parts, stage: str) -> dict[str, Tensor]:
    tensors = parts.trained.tensors().items()
    return {f"{stage} {part}.{name}": t.clone() for part, found in tensors for name, t in found.items()}


def stages(flags: list[str], out: str, group: Group) -> dict[str, Tensor]:
    """What is learned in one piece, when cut, after reading it again, and at the end."""
    found: dict[str, Tensor] = {}
    parts, resolved = assemble(parse_tokens(flags), group)
    fit(parts, resolved.train)
    found |= state(parts, "whole")
    parts, _ = assemble(parse_tokens(flags), group)
    folder = RunFolder.create(Path(out), "cut") if group.rank == 0 else None
    fit(parts, resolved.train, folder=folder, stop=after_calls(3))
    found |= state(parts, "cut")
    parts, resolved = assemble(parse_tokens(flags), group)
    parts, fitted = restore(folder, parts, resolved, print) if folder else (parts, Fitted())
    parts, fitted = shared(fitted, parts, resolved)
    found |= state(parts, "read")
    fit(parts, resolved.train, folder=folder, fitted=fitted)
    return found | state(parts, "end")


def test_every_process_goes_on_with_the_same_bits(tokens: list[str], tmp_path: Path) -> None:
    for found in together(partial(stages, tokens, str(tmp_path / "runs")), tmp_path):
        for before, after in (("cut", "read"), ("whole", "end")):
            names = [name for name in found if name.startswith(before)]
            assert len(names) > 10
            assert all(torch.equal(found[name], found[name.replace(before, after, 1)]) for name in names)
