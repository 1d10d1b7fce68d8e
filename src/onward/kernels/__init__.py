"""How products and recurrences are computed; nothing outside this package knows.

Each compiled loop stands beside its plain twin in torch, which is right on every device and dtype and serves wherever
the loop does not. ``ONWARD_KERNELS`` (auto, always, never) chooses; `onward doctor` shows what is in use.
"""

from onward.kernels import feedback, fire, signs, sparse
from onward.kernels.choice import table as choices
from onward.kernels.compiled import KERNELS, Kernel, KernelWarning, Use, using

__all__ = ["KERNELS", "Kernel", "KernelWarning", "Use", "choices", "feedback", "fire", "signs", "sparse", "using"]
