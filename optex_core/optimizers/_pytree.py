"""Nested states as lists of leaves and back: a checkpoint can hold the state of any optimizer.

Containers are dataclasses, named tuples, tuples, lists and dicts (in the order of their sorted
keys). Leaves are arrays (anything with ``shape`` and ``dtype``), NumPy scalars, int, float, bool,
str and None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeGuard

import numpy as np

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array

_SUPPORTED = (
    "dataclasses, named tuples, tuples, lists, dicts, arrays of numbers, int, float, bool, str "
    "and None"
)
_SCALARS = {int, float, bool, str, type(None)}


def tree_flatten(tree: Any) -> tuple[list[Any], list[str]]:
    """``(leaves, describe)``: the leaves in a fixed order, not copied, and one line of text for
    each with its place and kind, such as ``"slots[0]: float64[8]"``.

    ArgumentTypeError, which names type and place, for what is of no supported type.
    """
    pairs = list(_iter_leaves(tree, ""))
    return [leaf for _, leaf in pairs], [f"{at or 'state'}: {_kind(leaf)}" for at, leaf in pairs]


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves alone: most states are walked in a fifth of the time."""
    found: list[object] = []
    _collect_leaves(tree, found)
    return found


def tree_map(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with ``function(leaf)`` in place of every leaf, called in the order of
    `tree_leaves`.
    """
    parts = None if is_array(tree) else _children(tree, "")
    return (
        function(tree) if parts is None else _refill(tree, [tree_map(p, function) for p in parts])
    )


def tree_unflatten(template: object, leaves: Sequence[object]) -> object:
    """Put `leaves` back into the nesting of `template`, the inverse of `tree_flatten`.

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
    return tree_map(template, lambda old: _restored(old, next(remaining)))


def is_array(tree: object) -> TypeGuard[Array]:
    """True for an array or a scalar of NumPy, or an array of CuPy."""
    return hasattr(tree, "shape") and hasattr(tree, "dtype") and not isinstance(tree, type)


@cache
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """Of a dataclass or a named tuple; None for other types."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def _children(tree: Any, place: str) -> list[Any] | None:
    """The parts of a container; None for a leaf."""
    kind: object = type(tree)
    if kind is tuple or kind is list:
        return list(tree)
    if kind is dict:
        return [tree[key] for key in _sorted_keys(tree, place)]
    names = _field_names(kind)
    return None if names is None else [getattr(tree, name) for name in names]


def _labels(tree: Any, place: str) -> list[str]:
    """The places of the parts of a container."""
    if type(tree) is dict:
        return [f"{place}[{key!r}]" for key in _sorted_keys(tree, place)]
    kind: object = type(tree)
    names = _field_names(kind)
    if names is None:
        return [f"{place}[{i}]" for i in range(len(tree))]
    return [f"{place}.{name}".lstrip(".") for name in names]


def _refill(tree: Any, parts: list[Any]) -> Any:
    """A container like `tree` with other parts."""
    kind: Any = type(tree)
    if kind is dict:
        found = dict(zip(_sorted_keys(tree, ""), parts, strict=True))
        return {key: found[key] for key in tree}
    if issubclass(kind, (tuple, list)):
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    # Not through __init__: the state was valid when it was saved, and fields with init=False must
    # come back too.
    new = object.__new__(kind)
    for name, part in zip(_field_names(kind) or (), parts, strict=True):
        object.__setattr__(new, name, part)
    return new


def _sorted_keys(tree: dict[object, object], place: str) -> list[object]:
    for key in tree:
        if type(key) not in {str, int}:
            raise ArgumentTypeError(
                f"{place or 'the state'} is a dict with the key {key!r}; keys must be str or int"
            )
    return sorted(tree, key=lambda key: (type(key).__name__, key))


def _iter_leaves(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    """(place, leaf) in order."""
    kind = type(tree)
    if kind in _SCALARS:
        yield place, tree
    elif is_array(tree):
        if getattr(tree.dtype, "hasobject", False):
            raise ArgumentTypeError(
                f"{place or 'the state'} is an array of objects; a state may hold "
                f"arrays of numbers only"
            )
        yield place, tree
    else:
        parts = _children(tree, place)
        if parts is None:
            raise ArgumentTypeError(
                f"{place or 'the state'} is of type {kind.__module__}.{kind.__qualname__}, "
                f"which cannot be saved; use {_SUPPORTED}"
            )
        for label, part in zip(_labels(tree, place), parts, strict=True):
            yield from _iter_leaves(part, label)


def _collect_leaves(tree: Any, found: list[Any]) -> None:
    kind = type(tree)
    if kind in _SCALARS or (kind is np.ndarray and not tree.dtype.hasobject):
        found.append(tree)
    elif kind is not dict and not is_array(tree) and (parts := _children(tree, "")) is not None:
        for part in parts:
            _collect_leaves(part, found)
    else:
        found.extend(leaf for _, leaf in _iter_leaves(tree, ""))


def _restored(old: object, leaf: object) -> object:
    if isinstance(leaf, np.ndarray) and leaf.ndim == 0:
        if isinstance(old, np.generic):
            return leaf[()]
        if not is_array(old):
            return leaf.item()
    return leaf


def _kind(leaf: Any) -> str:
    if is_array(leaf):
        return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"
    return "None" if leaf is None else type(leaf).__name__
