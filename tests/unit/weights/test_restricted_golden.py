"""Restricted weights against the numbers that the original authors' code computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from onward.weights import Matrix, Spectral, probed_norm
from onward.weights.restricted import shrink

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"


def load(case: str) -> dict[str, Tensor]:
    path = GOLDEN / f"{case}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden vectors: {path} is not there")
    return load_file(path)


def test_the_stochastic_frobenius_norm_is_the_authors() -> None:
    case = load("spide/frobenius")
    weight = case["in.weight"].requires_grad_()
    estimate = probed_norm(weight, case["in.noise"])
    found = shrink(weight, estimate, 1.0)
    (grad,) = torch.autograd.grad(found, [weight], case["in.upstream"])
    torch.testing.assert_close(estimate.detach(), case["out.estimate"], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.detach(), case["out.effective_weight"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad, case["out.grad_weight"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.linalg.vector_norm(weight.detach()), case["out.true_norm"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["fc", "conv"])
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "f32"), (torch.float64, "f64")])
def test_the_spectral_norm_is_the_authors(kind: str, dtype: torch.dtype, precision: str) -> None:
    """They iterate in evaluation too, so both of their passes are passes in training mode here."""
    case = load(f"ide/{kind}-full-model")
    stored = {name: case[f"state_before.network_s.{kind}.weight_{name}"].to(dtype) for name in "wguv"}
    weight = stored["w"]
    restriction = Spectral(weight, Matrix())
    restriction.load_state_dict({"gain": stored["g"], "u": stored["u"], "v": stored["v"]})
    rtol, atol = (1e-5, 1e-7) if dtype is torch.float32 else (1e-12, 1e-14)
    for number, part in enumerate(("train", "eval_after")):
        found = restriction(weight).detach()
        torch.testing.assert_close(found, case[f"{precision}.{part}.effective_feedback_weight"], rtol=rtol, atol=atol)
        if number == 0:
            for name in "uv":
                after = case[f"{precision}.train.state_after.network_s.{kind}.weight_{name}"]
                torch.testing.assert_close(getattr(restriction, name), after, rtol=rtol, atol=atol)
