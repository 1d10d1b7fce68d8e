"""The rule has every property that Onward's own rules have, and its feedback is signs."""

from __future__ import annotations

import pytest

from onward.rules import build
from onward.testing import Check, conformance
from onward.testing.harness import bound
from onward.testing.zoo import data, make


@pytest.mark.parametrize("check", conformance("sign-dfa"), ids=str)
def test_it_conforms(check: Check) -> None:
    check()


def test_feedback_is_one_bit_a_connection() -> None:
    rule = build({"name": "sign-dfa", "spatial": {"name": "sign-feedback", "scale": 1.0}})
    bound(rule, make("mlp"), data("mlp")[0])
    for matrix in rule.direct_feedback().values():
        assert len(matrix.abs().unique()) == 1
        assert len(matrix.unique()) == 2
