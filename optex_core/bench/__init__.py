"""Benchmarks, run by ``optex-core bench CASE``: one file each, found by this folder.

A case is a module with a function ``main(argv) -> int`` (its own options, its exit status), and its
first docstring line is what the list shows. Modules that begin with an underscore are shared by
cases and are none themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from optex_core.errors import ArgumentError, did_you_mean


def case_names() -> list[str]:
    """All cases, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get_case(name: str) -> ModuleType:
    """The module of a case, or ArgumentError."""
    if name not in case_names():
        raise ArgumentError(f"unknown benchmark {name!r}{did_you_mean(name, case_names())}")
    return importlib.import_module(f"{__name__}.{name}")
