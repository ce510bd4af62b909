"""Nested states as lists of leaves and back: a checkpoint can hold the state of any optimizer.

Containers are dataclasses, named tuples, tuples, lists and dicts (in the order of their sorted
keys). Leaves are arrays (anything with ``shape`` and ``dtype``), NumPy scalars, int, float, bool,
str and None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeGuard

import numpy as np

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array

_SCALARS = {int, float, bool, str, type(None)}


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves in a fixed order, not copied.

    ArgumentTypeError, which names type and place, for what is of no supported type.
    """
    found: list[Any] = []
    _collect(tree, found, ())
    return found


def tree_map(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with ``function(leaf)`` for every leaf, called in the order of `tree_leaves`."""
    labels = None if is_array(tree) else _labels(tree)
    if labels is None:
        return function(tree)
    parts = [tree_map(_part(tree, label), function) for label in labels]
    kind: Any = type(tree)
    if kind is dict:
        found = dict(zip(labels, parts, strict=True))
        return {key: found[key] for key in tree}
    if issubclass(kind, (tuple, list)):
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    # Not through __init__: the state was valid when it was saved, and fields with init=False must
    # come back too.
    new = object.__new__(kind)
    for name, part in zip(labels, parts, strict=True):
        object.__setattr__(new, name, part)
    return new


def tree_unflatten(template: object, leaves: Sequence[object]) -> object:
    """Put `leaves` back into the nesting of `template`, the inverse of `tree_leaves`.

    Classes, keys and lengths are the template's, or ArgumentError; a leaf that was None or 0.0 at
    first may have become an array. Arrays of shape () stand for Python scalars, as files return
    them, unless the template holds an array or a NumPy scalar there.
    """
    expected = len(tree_leaves(template))
    if expected != len(leaves):
        raise ArgumentError(
            f"the saved state has {len(leaves)} leaves but this optimizer's "
            f"state has {expected}; were its settings changed?"
        )
    remaining = iter(leaves)

    def restored(old: object) -> object:
        leaf = next(remaining)
        if not isinstance(leaf, np.ndarray) or leaf.ndim:
            return leaf
        if isinstance(old, np.generic):
            return leaf[()]
        return leaf if is_array(old) else leaf.item()

    return tree_map(template, restored)


def is_array(tree: object) -> TypeGuard[Array]:
    """True for an array or a scalar of NumPy, or an array of CuPy."""
    return hasattr(tree, "shape") and hasattr(tree, "dtype") and not isinstance(tree, type)


@cache
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """Of a dataclass or a named tuple; None for other types."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def _labels(tree: Any) -> Iterable[Any] | None:
    """The indices, keys or names of fields of the parts of a container; None for a leaf."""
    kind: object = type(tree)
    if kind is tuple or kind is list:
        return range(len(tree))
    return sorted(tree, key=lambda k: (type(k).__name__, k)) if kind is dict else _field_names(kind)


def _part(tree: Any, label: Any) -> Any:
    return tree[label] if type(tree) in (tuple, list, dict) else getattr(tree, label)


def _collect(tree: Any, found: list[Any], place: tuple[Any, ...]) -> None:
    """Append the leaves; `place` is (place of the container, its type, label), or ()."""
    kind = type(tree)
    if kind in _SCALARS or (kind is np.ndarray and not tree.dtype.hasobject):
        found.append(tree)
    elif is_array(tree):
        if getattr(tree.dtype, "hasobject", False):
            raise ArgumentTypeError(
                f"{_text(place)} is an array of objects; a state may hold arrays of numbers only"
            )
        found.append(tree)
    else:
        if kind is dict and (bad := [key for key in tree if type(key) not in {str, int}]):
            raise ArgumentTypeError(
                f"{_text(place)} is a dict with the key {bad[0]!r}; keys must be str or int"
            )
        labels = _labels(tree)
        if labels is None:
            raise ArgumentTypeError(
                f"{_text(place)} is of type {kind.__module__}.{kind.__qualname__}, which cannot be "
                "saved; use dataclasses, named tuples, tuples, lists, dicts, arrays of numbers, "
                "int, float, bool, str and None"
            )
        for label in labels:
            _collect(_part(tree, label), found, (place, kind, label))


def _text(place: tuple[Any, ...]) -> str:
    """A place for messages: ``slots[0]``."""
    text = ""
    while place:
        place, kind, label = place
        fields = kind not in (tuple, list, dict)
        text = (f".{label}" if fields else f"[{label!r}]") + text
    return text.lstrip(".") or "the state"
