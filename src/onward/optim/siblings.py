"""Two older learned optimisers of the zeroth-order literature, forward only, for comparison with published numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-5


class RowNorm(nn.Module):
    """(v - mean) / (std + 1e-5) * weight + bias over each row, with the unbiased standard deviation."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, width)), nn.Parameter(torch.zeros(1, width))

    def forward(self, v: Tensor) -> Tensor:
        """``[n, width]`` to ``[n, width]``."""
        centred = v - v.mean(1, keepdim=True)
        return centred / (v.std(1, keepdim=True) + EPS) * self.weight + self.bias


class NormedCell(nn.Module):
    """gates = norm(W_i x) + norm(W_h h): input, forget (less 1), output, transform; h = s(o) tanh(norm(c))."""

    def __init__(self, hidden: int):
        super().__init__()
        self.fc_i2h, self.fc_h2h = nn.Linear(hidden, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.ln_i2h, self.ln_h2h, self.ln_h2o = RowNorm(4 * hidden), RowNorm(4 * hidden), RowNorm(hidden)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """``(h, c)`` ``[n, hidden]`` after a step."""
        gates = self.ln_i2h(self.fc_i2h(x)) + self.ln_h2h(self.fc_h2h(h))
        entry, forget, out, transform = gates.chunk(4, dim=1)
        c = (forget - 1).sigmoid() * c + entry.sigmoid() * transform.tanh()
        return out.sigmoid() * self.ln_h2o(c).tanh(), c


class NormedLSTM(nn.Module):
    """A coordinatewise LSTM with row normalisation that sees two features of the gradient, and the parameter.

    >>> optimizer, rest = NormedLSTM(hidden=5), torch.zeros(2, 4, 5)
    >>> update, h, c = optimizer(torch.rand(4, 3), rest, rest)
    >>> update.shape, h.shape
    (torch.Size([4]), torch.Size([2, 4, 5]))
    """

    def __init__(self, hidden: int, layers: int = 2, width: int = 3):
        super().__init__()
        self.linear1, self.ln1, self.linear2 = nn.Linear(width, hidden), RowNorm(hidden), nn.Linear(hidden, 1)
        self.cells = nn.ModuleList(NormedCell(hidden) for _ in range(layers))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(update [n], h, c)`` for features ``[n, width]`` and states ``[layers, n, hidden]``."""
        below, hs, cs = self.ln1(self.linear1(x)).tanh(), [], []
        for cell, h_before, c_before in zip(self.cells, h, c, strict=True):
            below, after = cell(below, h_before, c_before)
            hs.append(below)
            cs.append(after)
        return self.linear2(below)[:, 0], torch.stack(hs), torch.stack(cs)


class GatedStep(nn.Module):
    """theta <- f theta - i g, with (f, i) = sigmoid(W [features, theta, loss, f, i] + b) for every coordinate.

    >>> step, theta = GatedStep(), torch.ones(3)
    >>> theta, gates = step(theta, theta, torch.zeros(3, 2), torch.tensor(0.5), torch.zeros(3, 2))
    >>> theta.shape, gates.shape
    (torch.Size([3]), torch.Size([3, 2]))
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(6, 2)

    def forward(self, theta: Tensor, g: Tensor, features: Tensor, loss: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """``(theta [n], gates [n, 2])``; gates are 0 at the start."""
        seen = torch.cat([features, theta[:, None], loss.expand(len(theta), 1), gates], dim=1)
        gates = self.linear1(seen).sigmoid()
        return gates[:, 0] * theta - gates[:, 1] * g, gates
