"""Kernels: one file each, found by this folder."""

from optex_core.model.kernels.base import KERNELS, Kernel, get_kernel

__all__ = ["KERNELS", "Kernel", "get_kernel"]
