"""What stands between user code and the engine: callables in many forms become one objective.

For users: ``subprocess`` makes an objective of an external program. Each is loaded on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optex_core.adapters.program import subprocess

#: Public name -> module of this folder that defines it.
_HOMES = {"subprocess": "program"}

__all__ = ["subprocess"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optex_core.adapters' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
