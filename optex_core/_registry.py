"""Names to classes, found by folder: being a file in the folder is being registered.

A decorator, not ``__init_subclass__``: the latter runs twice for ``@dataclass(slots=True)`` and
before abstractness is known.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from optex_core._validation import reject_unknown_fields, short_repr
from optex_core.errors import ArgumentError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to entry that fills itself from a package folder at first use.

    Parameters
    ----------
    kind : str
        What the entries are, for error messages: "kernel", "optimizer".
    package : str
        Dotted name of the package (or of the one module) that holds the entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._complete = False

    def register(self, entry: T) -> T:
        """Add `entry` under ``entry.name``; a second entry of the same name is refused.

        From here on a class refuses settings that it does not know with the closest one that it
        does (its signature stays as it is).
        """
        name = getattr(entry, "name", None)
        if not isinstance(name, str) or not name:
            raise ArgumentError(
                f"a {self.kind} needs a class attribute `name`, a non-empty string; "
                f"{entry!r} has {name!r}"
            )
        known = self._entries.get(name)
        if known is not None and getattr(known, "__qualname__", known) != getattr(
            entry, "__qualname__", entry
        ):
            raise ArgumentError(
                f"two {self.kind}s are called {name!r}: {known!r} and {entry!r}; rename one"
            )
        self._entries[name] = reject_unknown_fields(entry)
        return entry

    def _load(self) -> None:
        if not self._complete:
            package = importlib.import_module(self.package)
            # A plain module has no __path__: importing it was enough.
            for module in sorted(
                m.name
                for m in pkgutil.iter_modules(getattr(package, "__path__", []))
                if not m.name.startswith("_")
            ):
                importlib.import_module(f"{self.package}.{module}")
            self._complete = True

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str):
            raise ArgumentError(f"a {self.kind} is asked for by its name, got {short_repr(name)}")
        if name not in self._entries:  # the folder is read only when the name is not known yet
            self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise ArgumentError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)
