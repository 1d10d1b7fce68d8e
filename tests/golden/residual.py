"""Pre-activation residual networks, derived from the names and shapes of what a case stores.

A block, with input x:  a = LIF(BN(x)),  out = W_n LIF(BN(... W_1 a)) + shortcut(a), where the shortcut is the identity
of a or a 1x1 convolution of a. Around the blocks: a stem (a synapse, with or without normalisation and neurons), and
normalisation, neurons, average pooling and a linear head at the end.

Blocks are recognised by a common prefix (``block1.conv1``, ``layer1.0.bn2``, ``b2_conv1``), or in a flat list of
names by order: a stem, then two synapses a block. Strides and poolings follow from the shapes of the stored spikes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.stack import Parts, Stack
from onward.core.containers import Residual

_SHORTCUT = re.compile(r"(?:^|[._])(?:shortcut|downsample|down|skip|proj|projection|sc)\d*(?:$|[._])")


_KIND = re.compile(r"[._]?(?:conv|fc|linear|lin)\d*$")


_LAST = re.compile(r"(?:^|[._])(?:final|last|out|head|end|post)(?:$|[._\d])")


@dataclass
class Block:
    """The layers of one block by name, in order."""

    norms: list[str] = field(default_factory=list)
    synapses: list[str] = field(default_factory=list)
    shortcut: list[str] = field(default_factory=list)


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key in which lif10 follows lif9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def placed(name: str) -> tuple[int, list[tuple[int, int | str]]]:
    """A sort key for neurons and norms: a stem's come first, those that a name calls last or does not number last."""
    last = _LAST.search(name) or not re.search(r"\d", name)
    return (0 if "stem" in name else 2 if last else 1), natural(name)


def blocks_of(params: Mapping[str, Tensor]) -> dict[str, Block]:
    """Groups of layers that share a prefix and hold at least two synapses and a norm, in natural order."""
    found: dict[str, Block] = {}
    for label in _labels(params):
        match = _SHORTCUT.search(label)
        if match:
            prefix = re.sub(r"[._]$", "", _KIND.sub("", label[: match.start()]))
            found.setdefault(prefix, Block()).shortcut.append(label)
            continue
        prefix, _, _ = re.sub(r"_(?=[a-z]+\d*$)", ".", label).rpartition(".")
        block = found.setdefault(prefix, Block())
        (block.norms if _is_norm(params, label) else block.synapses).append(label)
    return {prefix: b for prefix, b in found.items() if prefix and len(b.synapses) > 1 and b.norms}


def preactivation(parts: Parts) -> nn.Sequential:
    """The network; raises `Unreadable` where names and shapes do not tell it."""
    return _Assembly(parts).layers


class _Assembly:
    """Assigns stored layers and neurons to their places, and builds from input to output."""

    def __init__(self, parts: Parts):
        self.parts, self.trial = parts, parts.trial
        self.maps = self.trial.maps()
        blocks = blocks_of(self.trial.params)
        inside = {label for b in blocks.values() for label in (*b.norms, *b.synapses, *b.shortcut)}
        rest = [label for label in _labels(self.trial.params) if label not in inside]
        if not blocks:
            blocks, rest = _flat_blocks(self.trial, rest)
        self.stem, norms, self.head = _ends(self.trial, rest)
        self.stem_norms, self.last_norms = _split(norms)
        self.firing, outside = _assign(sorted(self.maps, key=placed), blocks)
        self.stem_neurons, self.last_neurons = _split(outside)
        self.here = self.trial.x.shape[2:]
        self.layers = self._build(blocks).layers

    def _build(self, blocks: dict[str, Block]) -> Stack:
        stack = Stack(self.parts)
        entry, *later = [neurons[0] for neurons in self.firing.values()]
        self._stem(stack, entry)
        for (prefix, block), following in zip(blocks.items(), [*later, *self.last_neurons, None], strict=False):
            self._block(stack, block, self.firing[prefix], following)
        for label in self.last_norms:
            stack.norm(label)
        for label in self.last_neurons:
            stack.neuron(label)
        self._pool_for_head(stack)
        stack.linear(self.head)
        return stack

    def _stem(self, stack: Stack, entry: str) -> None:
        for label in self.stem:
            self._synapse(stack, label, self.maps[[*self.stem_neurons, entry][0]])
        for label in self.stem_norms:
            stack.norm(label)
        for label in self.stem_neurons:
            stack.neuron(label)
        self._pool_to(stack, entry)

    def _block(self, stack: Stack, block: Block, neurons: list[str], following: str | None) -> None:
        if not len(neurons) == len(block.norms) == len(block.synapses):
            raise Unreadable(f"a pre-activation block needs as many norms and neurons as synapses: {block}, {neurons}")
        stack.norm(block.norms[0])
        stack.neuron(neurons[0])
        entered, body, shortcut = self.here, Stack(self.parts), Stack(self.parts)
        for place, label in enumerate(block.synapses):
            if place:
                body.norm(block.norms[place])
                body.neuron(neurons[place])
            inner = place + 1 < len(neurons)
            self._synapse(body, label, self.maps[neurons[place + 1]] if inner else None)
        left, self.here = self.here, entered
        for label in block.shortcut:
            if _is_norm(self.trial.params, label):
                shortcut.norm(label)
            else:
                self._synapse(shortcut, label, left)
        if self.here != left:
            raise Unreadable(f"block {block} adds maps of shape {list(self.here)} and {list(left)}")
        stack.glue(Residual(body.layers, shortcut.layers))
        if following is not None:
            self._pool_to(stack, following)

    def _synapse(self, stack: Stack, label: str, wanted: torch.Size | None) -> None:
        """A synapse whose stride leads to a map of shape ``wanted``; stride 1 if that is open."""
        weight = self.trial.params[f"{label}.weight"]
        if weight.dim() == 2:
            stack.linear(label)
            self.here = torch.Size([len(weight)])
            return
        kernel = weight.shape[-1]
        sides = {s: (self.here[-1] + 2 * (kernel // 2) - kernel) // s + 1 for s in range(1, self.here[-1] + 1)}
        stride = 1 if wanted is None else next((s for s, side in sides.items() if side == wanted[-1]), 1)
        stack.conv(label, stride, kernel // 2)
        self.here = torch.Size([len(weight), sides[stride], sides[stride]])

    def _pool_to(self, stack: Stack, following: str) -> None:
        side, wanted = self.here[-1], self.maps[following][-1]
        if len(self.here) > 1 and side != wanted:
            if side % wanted:
                raise Unreadable(f"maps of side {side} meet {following!r}, whose spikes have side {wanted}")
            stack.glue(nn.AvgPool2d(side // wanted))
            self.here = torch.Size([self.here[0], wanted, wanted])

    def _pool_for_head(self, stack: Stack) -> None:
        if len(self.here) == 1:
            return
        side = round((self.trial.params[f"{self.head}.weight"].shape[1] / self.here[0]) ** 0.5)
        if side != self.here[-1]:
            stack.glue(nn.AdaptiveAvgPool2d(side))
        stack.flatten()


def _labels(params: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in params}, key=natural)


def _is_norm(params: Mapping[str, Tensor], label: str) -> bool:
    return params[f"{label}.weight"].dim() == 1


def _flat_blocks(trial: Trial, labels: list[str]) -> tuple[dict[str, Block], list[str]]:
    """Blocks of two in a flat list: stem, conv, conv, ..., head; every other norm but the last belongs to them too."""
    shortcuts = [label for label in labels if _SHORTCUT.search(label)]
    norms = sorted((n for n in labels if n not in shortcuts and _is_norm(trial.params, n)), key=placed)
    synapses = [label for label in labels if label not in (*shortcuts, *norms)]
    stem, _, head = _ends(trial, synapses)
    inner = [label for label in synapses if label not in (*stem, head)]
    if not inner or len(inner) % 2 or len(norms) < len(inner):
        raise Unreadable(
            f"architecture {trial.config.get('arch')!r} is none of mlp, conv, convbn, and the parameters "
            f"({', '.join(labels)}) do not form pre-activation blocks"
        )
    blocks = {}
    for i in range(0, len(inner), 2):
        into, out = trial.params[f"{inner[i]}.weight"].shape[1], len(trial.params[f"{inner[i + 1]}.weight"])
        taken = [s for s in shortcuts[:1] if trial.params[f"{s}.weight"].shape[:2] == (out, into)]
        shortcuts = shortcuts[len(taken) :]
        blocks[f"#{i}"] = Block(norms[i : i + 2], inner[i : i + 2], taken)
    return blocks, [*stem, *norms[len(inner) :], *shortcuts, head]


def _ends(trial: Trial, labels: list[str]) -> tuple[list[str], list[str], str]:
    """The stem (one synapse or none), the norms outside blocks, and the head."""
    norms = sorted((label for label in labels if _is_norm(trial.params, label)), key=placed)
    synapses = [label for label in labels if label not in norms]
    wide = {s: trial.params[f"{s}.weight"].shape for s in synapses}
    heads = [s for s in synapses if len(wide[s]) == 2 and wide[s][0] == trial.setting("classes")]
    if not heads:
        raise Unreadable(f"no linear layer with {trial.setting('classes')} outputs is among {', '.join(labels)}")
    into = trial.x.shape[2]
    head = min(heads, key=lambda s: ("stem" in s, wide[s][1] == into))
    stem = [s for s in synapses if s != head and wide[s][1] == into][:1]
    return stem, norms, head


def _split(names: list[str]) -> tuple[list[str], list[str]]:
    """What belongs to the stem, and the last one, which follows the blocks; 'stem' in a name decides."""
    last = [name for name in names if "stem" not in name][-1:]
    return [name for name in names if name not in last], last


def _assign(neurons: list[str], blocks: dict[str, Block]) -> tuple[dict[str, list[str]], list[str]]:
    """Neurons by block, and those outside: by prefix, or by order where no name carries one."""
    firing = {prefix: [n for n in neurons if re.match(rf"{re.escape(prefix)}[._]", n)] for prefix in blocks}
    outside = [n for n in neurons if not any(n in names for names in firing.values())]
    needed = sum(len(block.synapses) for block in blocks.values())
    if len(outside) == len(neurons) >= needed:
        first = max(0, len(outside) - needed - 1)
        queue = iter(outside[first : first + needed])
        firing = {prefix: [next(queue) for _ in block.synapses] for prefix, block in blocks.items()}
        outside = [*outside[:first], *outside[first + needed :]]
    if not all(firing.values()) or len(outside) > 2:
        raise Unreadable(f"neurons {', '.join(neurons) or 'none'} do not fit blocks {', '.join(blocks)}")
    return firing, outside
