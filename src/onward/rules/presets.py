"""Cells of the credit grid that carry a paper's name, with the authors' `reference` fidelity.

==================  =========  ==================  ========================================================
rule                temporal   spatial             source
==================  =========  ==================  ========================================================
ottt                OTTT       bp                  Xiao et al. 2022
sltt                SLTT       bp                  Meng et al. 2023 (published neurons: tau 1.1, triangle)
sltt-k              SLTT-K     bp                  Meng et al. 2023
fa, sign-symmetric  OTTT       mirrored weights    Lillicrap et al. 2016; Liao et al. 2016
dfa                 OTTT       fixed feedback      Nokland 2016, as a baseline of OPZO
dkp                 OTTT       learned feedback    Kolen & Pollack 1994, as a baseline of OPZO
zo                  OTTT       scalar feedback     single-point ZO, as a baseline of OPZO
opzo                OTTT       estimated feedback  Xiao et al. 2024: Rademacher noise after the neuron, in pairs
opzo-gaussian       OTTT       estimated feedback  the same with Gaussian noise
relay-opzo          OTTT       relayed feedback    ours: OPZO whose last hop goes through estimated weights
==================  =========  ==================  ========================================================
"""

from __future__ import annotations

from onward.rules.online import preset

_OTTT = {"name": "ottt", "fidelity": "reference"}
_XIAO = "Xiao et al. 2024 (ICLR 2026)"

preset(
    "ottt",
    "online training through time: eligibility traces, back-propagation within each step",
    temporal=_OTTT,
    spatial={"name": "bp"},
    paper="Xiao et al. 2022",
    published="equations, code, results",
    inferred="none",
)
preset(
    "sltt",
    "spatial learning through time: back-propagation within each step, no traces",
    temporal={"name": "sltt"},
    spatial={"name": "bp"},
    paper="Meng et al. 2023",
    published="equations, code, results",
    inferred="none",
)
preset(
    "sltt-k",
    "SLTT at K of T steps: the cheapest back-propagation",
    temporal={"name": "sltt-k", "k": 1},
    spatial={"name": "bp"},
    paper="Meng et al. 2023",
    published="equations, code, results",
    inferred="none",
)
preset(
    "fa",
    "OTTT's traces with feedback alignment",
    temporal=_OTTT,
    spatial={"name": "feedback-alignment"},
    paper="Lillicrap et al. 2016",
    published="code of HLOP (Xiao et al. 2024)",
    inferred="none",
)
preset(
    "sign-symmetric",
    "OTTT's traces with the signs of the weights as feedback",
    temporal=_OTTT,
    spatial={"name": "sign-symmetric"},
    paper="Liao et al. 2016",
    published="code of HLOP (Xiao et al. 2024)",
    inferred="none",
)
preset(
    "dfa",
    "OTTT's traces with fixed random direct feedback",
    temporal=_OTTT,
    spatial={"name": "dfa"},
    paper="Nokland 2016",
    published=f"results in {_XIAO}",
    inferred="scale of B",
)
preset(
    "dkp",
    "OTTT's traces with direct feedback learned like the readout",
    temporal=_OTTT,
    spatial={"name": "dkp"},
    paper="Kolen & Pollack 1994; Webster et al. 2020",
    published=f"results in {_XIAO}",
    inferred="update of B",
)
preset(
    "zo",
    "OTTT's traces with single-point zeroth-order credit",
    temporal=_OTTT,
    spatial={"name": "zo"},
    paper=_XIAO,
    published="results",
    inferred="noise as OPZO's",
)
preset(
    "opzo",
    "online pseudo-zeroth order: one noisy forward pass, no back-propagation through space or time",
    temporal=_OTTT,
    spatial={"name": "opzo"},
    paper=_XIAO,
    published="core equations, noise laws and positions, results",
    inferred="rho, alpha, start of M, one update of M a sequence",
)
preset(
    "opzo-gaussian",
    "opzo with Gaussian noise",
    temporal=_OTTT,
    spatial={"name": "opzo", "law": "gaussian"},
    paper=_XIAO,
    published="core equations, noise laws and positions, results",
    inferred="rho, alpha, start of M, one update of M a sequence",
)
preset(
    "relay-opzo",
    "opzo whose errors enter a layer higher and come down through weights estimated from the same noise",
    temporal=_OTTT,
    spatial={"name": "relay"},
    paper=f"ours, on {_XIAO}",
    published="nothing: opzo is its case of no hops",
    inferred="all of it",
)
