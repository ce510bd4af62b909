"""Benchmarks, run by ``optex-core bench CASE``: one file each, found by this folder.

A case is a module with a function ``main(argv) -> int`` (its own options, its exit status), and its
first docstring line is what the list shows. Modules that begin with an underscore are shared by
cases and are none themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence

from optex_core.errors import ArgumentError, did_you_mean

Case = Callable[[Sequence[str]], int]


class Benches(Mapping[str, Case]):
    """Name to ``main`` of all benchmark cases; a case is imported when it is asked for."""

    def __getitem__(self, name: str) -> Case:
        if name not in self:
            raise ArgumentError(f"unknown benchmark {name!r}{did_you_mean(name, self)}")
        main: Case = importlib.import_module(f"{__name__}.{name}").main
        return main

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))

    def __iter__(self) -> Iterator[str]:
        return iter(
            sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
        )

    def __len__(self) -> int:
        return len(list(iter(self)))

    def summary(self, name: str) -> str:
        """The first line of the case's docstring."""
        return (
            (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().partition("\n")[0]
        )


BENCHES = Benches()

__all__ = ["BENCHES", "Benches"]
