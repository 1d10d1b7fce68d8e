"""The network inside a learned optimiser: one small LSTM that every coordinate runs by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny
from torch import Tensor, nn

from onward.core.registry import Choice
from onward.optim.features import State, inputs, with_momenta

LANES = 16
"""Rows of a product are padded to a multiple: how many there are then changes no bit of any of them."""

InputField = Annotated[SerializeAsAny[Choice], BeforeValidator(inputs.parse)]
Decay = Annotated[float, Ge(0), Lt(1)]


class Architecture(BaseModel):
    """What a learned optimiser is made of. The default has 450 numbers to learn.

    >>> sum(p.numel() for p in Cell(Architecture()).parameters())
    450
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden: int = Field(default=10, ge=1, le=256, description="units of each layer of the learned optimiser")
    layers: int = Field(default=1, ge=1, le=4, description="layers of the learned optimiser")
    biases: bool = Field(default=False, description="with biases, a parameter whose gradient is 0 moves")
    input: InputField = Field(default=inputs.parse("raw"), description="what is seen of a gradient")
    momenta: tuple[Decay, ...] = Field(
        default=(), max_length=8, description="decays of running means that are seen beside the gradient"
    )
    scale: float = Field(default=1.0, gt=0, description="factor on the output")


class Coordinatewise(nn.Module):
    """An LSTM and a readout of one number, run by every coordinate with the same weights and a state of its own.

        [i f g o] = W_ih x + W_hh h;   c <- s(f) c + s(i) tanh(g);   h <- s(o) tanh(c);   out = w h

    ``x`` ``[n, width]``; ``h`` and ``c`` ``[layers, n, hidden]``. The readout starts at a tenth of torch's initial
    weights. Time and memory O(n layers hidden (hidden + width)).
    """

    def __init__(self, width: int, hidden: int = 10, layers: int = 1, biases: bool = False):
        super().__init__()
        self.hidden, self.layers = hidden, layers
        widths = [width, *[hidden] * (layers - 1)]
        self.rnn = nn.ModuleList(nn.LSTMCell(into, hidden, bias=biases) for into in widths)
        self.readout = nn.Linear(hidden, 1, bias=biases)
        with torch.no_grad():
            for parameter in self.readout.parameters():
                parameter.mul_(0.1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(out [n], h, c)`` after one step; the states given are left as they are."""
        count, below = len(x), _padded(x)
        hs, cs = [], []
        for cell, h_before, c_before in zip(self.rnn, _padded(h), _padded(c), strict=True):
            below, after = cell(below, (h_before, c_before))
            hs.append(below)
            cs.append(after)
        out = self.readout(below)[:count, 0]
        return out, torch.stack(hs)[:, :count], torch.stack(cs)[:, :count]

    def rest(self, like: Tensor) -> State:
        """The states of coordinates such as ``like`` ``[n]`` at the start."""
        shape = self.layers, len(like), self.hidden
        return {"h": like.new_zeros(shape), "c": like.new_zeros(shape)}

    @torch.no_grad()
    def move(self, x: Tensor, state: State, block: int) -> Tensor:
        """What comes out ``[n]``; the states move on in place, ``block`` coordinates at a time."""
        out = torch.empty_like(x[:, 0])
        h, c = state["h"], state["c"]
        for part in blocks(len(x), block):
            out[part], h[:, part], c[:, part] = self(x[part], h[:, part], c[:, part])
        return out


def _padded(rows: Tensor) -> Tensor:
    """Rows ``[..., n, k]`` with rows of zeros after them, up to a multiple of `LANES`."""
    short = -rows.shape[-2] % LANES
    return F.pad(rows, (0, 0, 0, short)) if short else rows


class Cell(nn.Module):
    """From gradients to updates: `Features`, then `Coordinatewise`, then a scale.

    >>> cell, g = Cell(Architecture()), torch.zeros(3)
    >>> state = cell.rest(g)
    >>> bool((cell.move(cell.see(g, state), state, block=2) == 0).all())
    True
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture, self.scale = architecture, architecture.scale
        self.features = with_momenta(inputs.build(architecture.input), architecture.momenta)
        self.core = Coordinatewise(self.features.width, architecture.hidden, architecture.layers, architecture.biases)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(update [n], h, c)`` of coordinates that see ``x`` ``[n, width]``."""
        out, h, c = self.core(x, h, c)
        return self.scale * out, h, c

    def rest(self, like: Tensor) -> State:
        """All that is remembered of coordinates such as ``like`` ``[n]``: zeros."""
        return {**self.core.rest(like), **self.features.rest(like)}

    def see(self, g: Tensor, state: State) -> Tensor:
        """What is seen of the gradient ``g`` ``[n]`` of a whole tensor, ``[n, width]``."""
        return self.features(g, state)

    @torch.no_grad()
    def move(self, x: Tensor, state: State, block: int) -> Tensor:
        """The update ``[n]``; the states move on in place, ``block`` coordinates at a time."""
        return self.core.move(x, state, block).mul_(self.scale)


def blocks(count: int, size: int) -> Iterator[slice]:
    """``range(count)`` in pieces of ``size``, the last of which may be shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def initial_cell(architecture: Architecture, seed: int) -> Cell:
    """A cell with initial weights that ``seed`` fixes; torch's own generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Cell(architecture)
