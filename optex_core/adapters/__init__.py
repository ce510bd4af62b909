"""Adapters between user code and the engine: callables in many forms become one objective.

For users: ``subprocess`` makes an objective of an external program, ``torch`` of a PyTorch module,
``jax`` of a JAX function, ``numba`` of a Numba function, ``cupy`` of a function of GPU arrays.
"""

from __future__ import annotations

from optex_core.adapters.cupy_ import cupy
from optex_core.adapters.jax_ import jax
from optex_core.adapters.numba_ import numba
from optex_core.adapters.program import subprocess
from optex_core.adapters.torch_ import torch

__all__ = ["cupy", "jax", "numba", "subprocess", "torch"]
