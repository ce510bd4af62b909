"""Kernels: one file each, found by this folder.

Every registered kernel is an attribute: ``kernels.Matern52``. `base` has the recipe for a new one.
"""

from optex_core._registry import plugin_attributes
from optex_core.model.kernels.base import KERNELS, Kernel, get_kernel

__all__ = ["KERNELS", "Kernel", "get_kernel"]

__getattr__, __dir__ = plugin_attributes(__name__, __all__, KERNELS)
