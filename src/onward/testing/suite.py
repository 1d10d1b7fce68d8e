"""The conformance suite, as a list of checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onward.core.errors import UnknownName
from onward.rules import rules
from onward.testing import checks
from onward.testing.zoo import ZOO, refusal

Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One property on one network; a call raises `AssertionError` where the rule does not have it."""

    prop: str
    network: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Runs the check."""
        self.run()

    def __str__(self) -> str:
        return f"{self.prop}, {self.network}"


IN_PARTS = ("mlp", "conv", "dropout", "delayed-input", "delayed-layer")
ON: Mapping[Callable[[dict[str, Any], str], None], Collection[str]] = {
    checks.output_is_the_networks_own: tuple(ZOO),
    checks.chunks_change_no_number: tuple(ZOO),
    checks.same_seed_same_bits: ("conv", "dropout", "disturbed", "feedback"),
    checks.other_seed_other_numbers: ("mlp",),
    checks.halves_make_the_mean: ("disturbed", "dropout", "mlp", "recurrent"),
    checks.parts_add_up: ("conv", "dropout"),
    checks.sequences_in_parts: (*IN_PARTS, "recurrent", "adaptive-lif"),
    checks.saved_and_loaded: ("mlp", "conv"),
    checks.dtypes_of_gradients: ("standardized", "dropout", "learned-threshold"),
    checks.sequences_add_up: ("conv",),
    checks.memory_as_claimed: ("mlp", "conv", "feedback"),
    checks.autograd_as_claimed: ("mlp", "conv", "standardized", "drive-residual", "spiking-output"),
}
"""Which networks show a property."""


def conformance(rule: str | Rule, without: Mapping[str, str] | None = None) -> list[Check]:
    """Every check of a rule, given by name or with options.

    Networks that `bind` refuses are checked to be refused. ``without`` are names of properties that the rule cannot
    have, each with the reason: a rule whose samples hear of each other has no ``halves_make_the_mean``. Raises
    `UnknownName` for a property or a rule that there is not. On two CPU cores the whole list takes some seconds.

    >>> checks = conformance("dfa", without={"dtypes_of_gradients": "an example"})
    >>> len(checks) > 60, str(checks[0])
    (True, 'output_is_the_networks_own, mlp')
    >>> checks[0]()
    """
    given = {"name": rule} if isinstance(rule, str) else dict(rule)
    rules.parse(given)
    known = {prop.__name__ for prop in ON}
    for name in without or {}:
        if name not in known:
            raise UnknownName("property", name, known)
    return list(_checks(given, set(without or ())))


def _checks(rule: dict[str, Any], without: set[str]) -> Iterator[Check]:
    for prop, networks in ON.items():
        if prop.__name__ not in without:
            served = (network for network in networks if refusal(rule, network) is None)
            yield from (_check(prop, rule, network) for network in served)
    for network in ZOO:
        if refusal(rule, network) is not None:
            yield _check(checks.refused_at_bind, rule, network)


def _check(prop: Callable[[dict[str, Any], str], None], rule: dict[str, Any], network: str) -> Check:
    return Check(prop.__name__, network, lambda: prop(rule, network))
