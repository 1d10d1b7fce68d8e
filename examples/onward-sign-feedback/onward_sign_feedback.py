"""Direct feedback through one bit a connection.

    g^l[t] = scale B^l e[t] / sqrt(m),    B^l random signs, fixed

B is ``[n_l, m]`` with entries -1 and 1, where m is the number of outputs: what `dfa` does with normal numbers, in one
bit a connection. No transposed weights; memory and work O(n m) a layer.
"""

from __future__ import annotations

from torch import Tensor, sign

from onward.credit.base import spatials
from onward.credit.dfa import DirectFeedback, DirectFeedbackOptions
from onward.rules.online import preset

BIBTEX = """@misc{onwardsignfeedback,
  author = {{The Onward contributors}},
  title = {onward-sign-feedback: an example of a learning rule of your own},
  year = {2026}
}"""
FACTS = {"paper": "an example", "published": "nothing", "inferred": "everything", "bibtex": BIBTEX}


class SignFeedback(DirectFeedback):
    """Fixed signs; the normal numbers that `DirectFeedback` draws give them."""

    def keep(self, name: str, b: Tensor) -> None:
        """See `DirectFeedback.keep`."""
        self.register_buffer(name, sign(b) * (self.scale / b.shape[1] ** 0.5))


spatials.register(
    "sign-feedback",
    DirectFeedbackOptions,
    lambda choice: SignFeedback(choice.scale),
    "direct feedback through fixed random signs",
    facts=FACTS,
)
preset(
    "sign-dfa",
    "OTTT's traces with direct feedback through random signs",
    temporal={"name": "ottt", "fidelity": "reference"},
    spatial={"name": "sign-feedback"},
    paper="none needed",
    published="see its choices",
    inferred="see its choices",
)
