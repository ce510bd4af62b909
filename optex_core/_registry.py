"""Plug-in folders: names to classes, found by folder. Being a file in the folder is being
registered.

A decorator, not ``__init_subclass__``: the latter runs twice for ``@dataclass(slots=True)`` and
before abstractness is known.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from optex_core._validation import reject_unknown_fields, short_repr
from optex_core.errors import ArgumentError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to entry that fills itself from a folder at first use.

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

        From here on a class refuses unknown settings with the closest known one, and its docstring
        has the parameters that it leaves out, as its bases describe them.
        """
        name = getattr(entry, "name", None)
        if not isinstance(name, str) or not name:
            raise ArgumentError(
                f"a {self.kind} needs a class attribute `name`, a non-empty string; "
                f"{entry!r} has {name!r}"
            )
        known = self._entries.get(name)
        # the same class again, of a module that is loaded anew
        same = getattr(known, "__qualname__", known) == getattr(entry, "__qualname__", entry)
        if known is not None and not same:
            raise ArgumentError(
                f"two {self.kind}s are called {name!r}: {known!r} and {entry!r}; rename one"
            )
        self._entries[name] = reject_unknown_fields(entry)
        if isinstance(entry, type):
            inherit_parameters(entry)
        return entry

    def _all(self) -> dict[str, T]:
        if not self._complete:
            package = importlib.import_module(self.package)
            # A plain module has no __path__: importing it was enough.
            found = pkgutil.iter_modules(getattr(package, "__path__", []))
            for module in sorted(m.name for m in found if not m.name.startswith("_")):
                importlib.import_module(f"{self.package}.{module}")
            self._complete = True
        return self._entries

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str):
            raise ArgumentError(f"a {self.kind} is asked for by its name, got {short_repr(name)}")
        # the folder is read only when the name is not known yet
        if name not in self._entries and name not in self._all():
            raise ArgumentError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())


def plugin_attributes(
    package: str, public: list[str], *registries: Registry[T]
) -> tuple[Callable[[str], T], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a plug-in folder: every registered class by its own name,
    a new file's too. `public` is the package's ``__all__``.
    """

    def classes() -> dict[str, T]:
        return {
            getattr(entry, "__name__", name): entry
            for registry in registries
            for name, entry in registry.items()
        }

    def __getattr__(name: str) -> T:
        if name[:1].isupper() and name in (found := classes()):
            return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted({*public, *classes()})


def inherit_parameters(kind: type) -> None:
    """Complete the Parameters section of a class's docstring from its bases' docstrings.

    Parameters come in the order of the signature. Inherited ones get the defaults of `kind`.
    """
    doc = inspect.cleandoc(kind.__doc__ or "")
    if not doc:  # python -OO
        return
    known: dict[str, tuple[str, ...]] = {}
    for base in reversed(kind.__mro__):
        found = _parameters(inspect.cleandoc(base.__dict__.get("__doc__") or ""))[1]
        known |= {name: (entry, base.__name__) for name, entry in found.items()}
    before, own, after = _parameters(doc)
    entries = []
    for name, parameter in inspect.signature(kind).parameters.items():
        entry, source = known.get(name, ("", ""))
        if source != kind.__name__ and entry:
            names, _, rest = entry.partition(" : ")
            head, *text = rest.split("\n")
            head = head.partition(", default ")[0]
            if parameter.default is not parameter.empty:
                head += f", default {parameter.default!r}"
            entry = "\n".join([f"{name} : {head}", *text])
        if entry and entry not in entries:
            entries.append(entry)
    if entries:
        section = "\n".join(["Parameters", "----------", *entries])
        kind.__doc__ = "\n\n".join(part for part in (before, section, after) if part)


def _parameters(doc: str) -> tuple[str, dict[str, str], str]:
    """What stands before the Parameters section, its entries by name, and what stands after it."""
    before, heading, rest = doc.partition("\n\nParameters\n----------\n")
    end = re.search(r"\n\n(?=[A-Z][a-z]+( [A-Z][a-z]+)?\n-{3,})", rest if heading else doc)
    if not heading:
        return (doc[: end.start()], {}, doc[end.end() :]) if end else (doc, {}, "")
    section, after = (rest[: end.start()], rest[end.end() :]) if end else (rest, "")
    entries = re.split(r"\n(?=\S)", section.strip())
    return (
        before,
        {name.strip(): entry for entry in entries for name in entry.partition(" : ")[0].split(",")},
        after,
    )
