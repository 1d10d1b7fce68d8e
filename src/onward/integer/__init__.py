"""Integer OPZO: networks whose answers and lessons take no float."""

from onward.integer.law import Law
from onward.integer.network import IntegerNetwork

__all__ = ["IntegerNetwork", "Law"]
