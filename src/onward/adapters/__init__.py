"""Networks of other libraries as Onward networks: their modules are read by name and attribute, never imported."""

from onward.adapters.snntorch import from_snntorch
from onward.adapters.spikingjelly import from_spikingjelly

__all__ = ["from_snntorch", "from_spikingjelly"]
