"""States as lists of leaves and back."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._pytree import tree_leaves, tree_map, tree_unflatten


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Record:
    count: int
    rows: tuple[Any, ...] = ()
    derived: Any = field(default=None, init=False)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text("ab", max_size=3)
)
arrays = st.lists(st.floats(-10, 10), max_size=4).map(np.array)
trees = st.recursive(
    scalars | arrays,
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab", max_size=3) | st.integers(0, 9), part, max_size=3)
        | st.builds(Pair, part, part)
        | st.builds(Record, st.integers(0, 9), st.tuples(part))
    ),
    max_leaves=12,
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Record):
        return equal((a.count, a.rows, a.derived), (b.count, b.rows, b.derived))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@given(trees)
def test_leaves_and_mapped_go_through_them_in_one_order(tree):
    found = tree_leaves(tree)
    seen = []
    again = tree_map(tree, lambda leaf: seen.append(leaf) or len(seen))
    assert all(a is b for a, b in zip(seen, found, strict=True))
    assert tree_leaves(again) == list(range(1, 1 + len(found)))


@given(trees)
def test_unflatten_is_the_inverse_of_flatten(tree):
    assert equal(tree_unflatten(tree, tree_leaves(tree)), tree)


@given(trees)
def test_a_file_that_returns_scalars_as_arrays_is_understood(tree):
    leaves = tree_leaves(tree)
    stored = [np.asarray(leaf) if isinstance(leaf, (bool, int, float)) else leaf for leaf in leaves]
    assert equal(tree_unflatten(tree, stored), tree)


def test_arrays_are_not_copied():
    array = np.zeros(3)
    leaves = tree_leaves({"m": array})
    assert leaves[0] is array
    assert tree_unflatten({"m": None}, leaves)["m"] is array


def test_a_dict_may_have_been_filled_in_another_order():
    leaves = tree_leaves({"v": 1, "m": 2})
    back = tree_unflatten({"m": 0, "v": 0}, leaves)
    assert back == {"m": 2, "v": 1}
    assert list(back) == ["m", "v"]


def test_a_leaf_may_have_become_an_array():
    # Users begin with m = 0.0 or None and have an array after the first step.
    assert equal(
        tree_unflatten({"m": 0.0, "n": None}, [np.ones(2), np.ones(3)]),
        {"m": np.ones(2), "n": np.ones(3)},
    )


def test_numpy_scalars_keep_their_type():
    leaves = tree_leaves((np.float32(0.1), np.int64(3)))
    back = tree_unflatten((np.float32(0), np.int64(0)), [np.asarray(leaf) for leaf in leaves])
    assert [type(leaf) for leaf in back] == [np.float32, np.int64]
    assert back == (np.float32(0.1), 3)


def test_an_array_of_shape_zero_stays_an_array():
    back = tree_unflatten([np.array(0.0)], [np.array(2.0)])
    assert isinstance(back[0], np.ndarray)
    assert back[0] == 2.0


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"seen": {1, 2}},
         r"\['seen'\] is of type builtins.set, which cannot be saved; use dataclasses"),
        (Record(0, (np.random.default_rng(0),)),
         r"rows\[0\] is of type numpy.random._generator.Generator"),
        ([1j], r"\[0\] is of type builtins.complex"),
        (Record(0, ({"b": Pair(1, [2, {3}])},)),
         r"^rows\[0\]\['b'\].right\[1\] is of type builtins.set"),
        (object(), "the state is of type builtins.object"),
        ([Colour.RED], "Colour"),
        ({(1, 2): 0}, r"the key \(1, 2\); keys must be str or int"),
        ([np.array([None])], r"\[0\] is an array of objects"),
        ((Record,), r"\[0\] is of type builtins.type"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_with_its_place(tree, sentence):
    with pytest.raises(ArgumentTypeError, match=sentence):
        tree_leaves(tree)


def test_a_wrong_number_of_leaves_is_refused():
    with pytest.raises(
        ArgumentError,
        match="the saved state has 1 leaves but this optimizer's state has 2; were its "
        "settings changed",
    ):
        tree_unflatten((0, 0), [1])
