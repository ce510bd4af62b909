"""Named arrays as blocks of one flat vector, and back."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import real, short_repr
from optex_core.backends import for_array, is_cupy
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class Block:
    """One array's place in a flat vector."""

    name: str  # its place in the nesting, such as ``['layers'][0]['weight']``
    start: int  # its first entry
    shape: tuple[int, ...]  # () for a scalar

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def path(self) -> str:
        """Its name as one writes it: ``layers[0].weight``."""
        return re.sub(r"\['([A-Za-z_]\w*)'\]", r".\1", self.name).lstrip(".")

    @property
    def label(self) -> str:
        """Its path and shape, for messages: ``layers[0].weight (64, 10)``."""
        return f"{self.path} {self.shape}"

    @property
    def slice(self) -> slice:
        """Its entries in the flat vector."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, slots=True)
class Unflatten:
    """The way back from a flat vector to the nesting; callable."""

    blocks: tuple[Block, ...]  # in the order of the flat vector
    size: int  # of the flat vector
    _tree: object

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each block to its shape, in the order of the flat vector."""
        return {block.name: block.shape for block in self.blocks}

    def __call__(self, x: Array) -> Any:
        """The nesting with the entries of `x`, shape (size,): new arrays of the dtype of `x`,
        Python floats where there were numbers.
        """
        if getattr(x, "shape", None) != (self.size,):
            raise ArgumentError(
                f"x must have shape ({self.size},), got {getattr(x, 'shape', type(x).__name__)}"
            )

        def entries(_name: str, leaf: _Leaf) -> object:
            part = x[leaf.block.slice]
            return float(part[0]) if leaf.number else part.reshape(leaf.block.shape).copy()

        return _map(self._tree, "", entries)


def flatten(tree: object) -> tuple[Array, Unflatten]:
    """One flat vector from nested dicts, lists and tuples of arrays and numbers, and the way back.

    Parameters
    ----------
    tree : dict, list, tuple, array or number
        Real arrays of any shape. Dicts are taken in their own order.

    Returns
    -------
    x : array, shape (d,)
        A copy, each array in C order: float32 if every array is float32, else float64. A CuPy array
        if the arrays are CuPy arrays.
    unflatten : Unflatten
        ``unflatten(x)`` gives the nesting back; ``unflatten.blocks`` and ``unflatten.shapes``
        describe it.

    Raises
    ------
    ArgumentTypeError
        If something is not a real array, a number, or a dict, list or tuple of these; or if NumPy
        and CuPy arrays are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.optimizers.parameter_blocks import flatten
    >>> x, unflatten = flatten({"weight": np.eye(2), "bias": [0.5, 1.5]})
    >>> x.tolist()
    [1.0, 0.0, 0.0, 1.0, 0.5, 1.5]
    >>> unflatten(2 * x)["bias"]
    [1.0, 3.0]
    >>> unflatten.shapes
    {"['weight']": (2, 2), "['bias'][0]": (), "['bias'][1]": ()}
    """
    blocks: list[Block] = []
    leaves: list[Any] = []

    def place(name: str, leaf: Any) -> _Leaf:
        number = isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
        if number and not hasattr(leaf, "dtype"):
            if isinstance(leaf, int):
                real(name or "tree", leaf)  # one that a float can hold
        elif getattr(getattr(leaf, "dtype", None), "kind", "") not in tuple("iuf"):
            array = f"an array of dtype {leaf.dtype}" if hasattr(leaf, "dtype") else None
            raise ArgumentTypeError(
                f"{name or 'tree'} must be a real array, a number, or a dict, list or tuple of "
                f"these, got {array or type(leaf).__name__}"
            )
        start = blocks[-1].slice.stop if blocks else 0
        blocks.append(Block(name or "x", start, tuple(getattr(leaf, "shape", ()))))
        leaves.append(leaf)
        return _Leaf(blocks[-1], not hasattr(leaf, "dtype") or isinstance(leaf, np.generic))

    # A template without the user's arrays: it neither keeps them alive nor sees them change.
    template = _map(tree, "", place)
    size = blocks[-1].slice.stop if blocks else 0
    arrays = [leaf for leaf in leaves if hasattr(leaf, "dtype")]
    if any(map(is_cupy, arrays)) and not all(map(is_cupy, arrays)):
        raise ArgumentTypeError("NumPy and CuPy arrays are mixed; pass all of them on one device")
    # A Python number has no precision of its own: it does not widen float32 arrays.
    dtype = np.float32 if arrays and all(a.dtype == np.float32 for a in arrays) else np.float64
    x = for_array(arrays[0] if arrays else np.empty(0)).empty(size, dtype)
    for block, leaf in zip(blocks, leaves, strict=True):
        x[block.slice] = leaf.ravel() if hasattr(leaf, "dtype") else leaf
    return x, Unflatten(tuple(blocks), size, template)


def blocks_from_shapes(shapes: object) -> tuple[Block, ...]:
    """The blocks that `shapes` describes, one after the other in the flat vector.

    A dict of names to shapes, as ``unflatten.shapes`` of `flatten` is, a sequence of shapes, called
    "0", "1", ..., or of pairs (name, shape). A shape is a tuple of integers, () for a scalar, or
    one integer. ArgumentError or ArgumentTypeError for no shapes at all, a name that comes twice,
    or a shape that is none or has an axis of length zero.
    """
    kinds = "a dict of names to shapes, a list of shapes, or a list of (name, shape)"
    expected = f"shapes must be {kinds}, got "
    if isinstance(shapes, Unflatten):
        shapes = shapes.shapes
    if isinstance(shapes, (str, bytes)) or not np.iterable(shapes):
        raise ArgumentTypeError(expected + short_repr(shapes))
    entries = list(shapes.items() if isinstance(shapes, Mapping) else shapes)
    if not entries:
        raise ArgumentError(f"{expected}none; leave shapes out for a vector without structure")
    if all(isinstance(e, int) and not isinstance(e, bool) for e in entries):
        raise ArgumentTypeError(
            f"{expected}the single shape {short_repr(shapes)}; write [{tuple(entries)}]"
        )
    blocks: dict[str, Block] = {}
    start = 0
    for i, entry in enumerate(entries):
        named = isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str)
        name, shape = entry if named or isinstance(shapes, Mapping) else (str(i), entry)
        if not isinstance(name, str):
            raise ArgumentTypeError(f"the names in shapes must be strings, got {short_repr(name)}")
        if name in blocks:
            raise ArgumentError(
                f"the name {name!r} comes twice in shapes; each block needs its own"
            )
        blocks[name] = Block(name, start, _shape(name, shape))
        start = blocks[name].slice.stop
    return tuple(blocks.values())


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    single = isinstance(shape, (int, np.integer)) and not isinstance(shape, bool)
    try:
        axes = tuple(map(operator.index, (shape,) if single else shape))
    except TypeError as error:
        raise ArgumentTypeError(
            f"the shape of {name!r} must be a tuple of integers, got {short_repr(shape)}"
        ) from error
    if any(n < 1 for n in axes):
        raise ArgumentError(
            f"the shape of {name!r} is {axes}: every axis must have a length of at "
            f"least 1; leave empty blocks out"
        )
    return axes


def merge_small_axes(
    shape: tuple[int, ...], limit: int, direction: str = "right"
) -> tuple[int, ...]:
    """`shape` without axes of length 1, and with neighbours multiplied together while their product
    is at most `limit` and three axes are left.

    A convolution of 3 x 3 x 64 x 64 becomes 9 x 64 x 64 from the "left", where the small axes of
    its layout are; one of 64 x 64 x 3 x 3 becomes 64 x 64 x 9 from the "right". Matrices and
    vectors stay what they are; all axes of length 1: (1,).
    """
    axes = [n for n in shape if n > 1] or [1]
    if direction == "right":
        axes.reverse()
    i = 0
    while direction != "none" and len(axes) > 2 and i + 1 < len(axes):
        if axes[i] * axes[i + 1] <= limit:
            axes[i : i + 2] = [axes[i] * axes[i + 1]]
        else:
            i += 1
    return tuple(reversed(axes)) if direction == "right" else tuple(axes)


@dataclass(frozen=True, slots=True)
class _Leaf:
    block: Block
    number: bool


def _map(tree: Any, name: str, function: Callable[[str, Any], Any]) -> Any:
    """The nesting with ``function(name, leaf)`` in place of every leaf, in order."""
    if isinstance(tree, dict):
        return {key: _map(part, f"{name}[{key!r}]", function) for key, part in tree.items()}
    if not isinstance(tree, (list, tuple)):
        return function(name, tree)
    kind: Any = type(tree)
    if hasattr(kind, "_fields"):
        pairs = zip(kind._fields, tree, strict=True)
        return kind._make([_map(p, f"{name}.{field}".lstrip("."), function) for field, p in pairs])
    return kind(_map(part, f"{name}[{i}]", function) for i, part in enumerate(tree))
