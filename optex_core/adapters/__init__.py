"""What stands between user code and the engine: callables in many forms become one objective.

For users: ``subprocess`` makes an objective of an external program, ``torch`` of a PyTorch module,
``jax`` of a JAX function, ``numba`` of a Numba function, ``cupy`` of a function of GPU arrays. Each
is loaded on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optex_core.adapters.cupy_ import cupy
    from optex_core.adapters.jax_ import jax
    from optex_core.adapters.numba_ import numba
    from optex_core.adapters.program import subprocess
    from optex_core.adapters.torch_ import torch

#: Public name -> module of this folder that defines it.
_EXPORTS = {
    "cupy": "cupy_",
    "jax": "jax_",
    "numba": "numba_",
    "subprocess": "program",
    "torch": "torch_",
}

__all__ = ["cupy", "jax", "numba", "subprocess", "torch"]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'optex_core.adapters' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
