"""Implicit differentiation on the equilibrium state: a network with feedback is differentiated at its fixed point.

    forward   rates a[T] of the spiking network approach a* = f(a*, x), f the network of clamps cut at its feedback
    backward  beta = J^T beta + dL/da,  J = df/da;    dL/dtheta = (df/dtheta)^T beta

The simulation is not differentiated: it keeps two sums a layer, and memory is that of one step of f and its solver,
O(n) whatever T is. Costs one pass through f, and one vector-Jacobian product of f for every step of the solver. Serves
any network whose neurons have a rate law, with any number of cycles; without a cycle it is back-propagation through
the network of clamps. Source: Xiao et al. 2021 (NeurIPS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.backprop import deposit_all
from onward.core.graph import Node
from onward.core.interpret import frozen_norms, run_walk
from onward.core.network import Network
from onward.core.rates import RateRule, RateWalk, rate_laws
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.core.signal import Signal, dense
from onward.rules.registry import rules
from onward.solvers import Solution, Solver, SolverChoice, solvers
