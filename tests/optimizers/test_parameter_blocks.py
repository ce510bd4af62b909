"""Nested arrays as one flat vector and back."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.parameter_blocks import Block, flatten


class Layer(NamedTuple):
    weight: Any
    bias: Any


arrays = st.lists(st.integers(0, 3), max_size=3).map(
    lambda shape: np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
)
trees = st.recursive(
    arrays | st.floats(-10, 10),
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab", max_size=3), part, max_size=3)
        | st.builds(Layer, part, part)
    ),
    max_leaves=10,
)


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.shape(a) == np.shape(b) and bool(np.all(a == b))


@given(trees)
def test_there_and_back(tree):
    x, unflatten = flatten(tree)
    assert x.shape == (unflatten.size,) == (sum(block.size for block in unflatten.blocks),)
    assert x.dtype == np.float64
    assert equal(unflatten(x), tree)
    again, _ = flatten(unflatten(x))
    np.testing.assert_array_equal(again, x)


def test_the_blocks_say_where_each_array_is():
    x, unflatten = flatten({"layers": [Layer(np.eye(2), np.array([5.0, 6.0]))], "scale": 7})
    assert unflatten.blocks == (
        Block("['layers'][0].weight", 0, (2, 2)),
        Block("['layers'][0].bias", 4, (2,)),
        Block("['scale']", 6, ()),
    )
    assert unflatten.shapes == {
        "['layers'][0].weight": (2, 2),
        "['layers'][0].bias": (2,),
        "['scale']": (),
    }
    assert [x[block.slice].tolist() for block in unflatten.blocks] == [
        [1.0, 0.0, 0.0, 1.0],
        [5.0, 6.0],
        [7.0],
    ]


@pytest.mark.parametrize(
    ("tree", "dtype"),
    [
        ([np.zeros(2, np.float32), np.ones(3, np.float32)], np.float32),
        ([np.zeros(2, np.float32), 0.5], np.float32),
        ([np.zeros(2, np.float32), np.ones(3)], np.float64),
        ([np.zeros(2, np.float16)], np.float64),
        ([np.arange(3)], np.float64),
        ([1, 2], np.float64),
        ([], np.float64),
    ],
)
def test_the_precision_is_single_only_if_all_is(tree, dtype):
    assert flatten(tree)[0].dtype == dtype


def test_the_vector_and_the_arrays_share_no_memory():
    weight = np.ones((2, 2))
    x, unflatten = flatten([weight])
    weight[:] = 5.0
    (back,) = unflatten(x)
    x[:] = 7.0
    assert back.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert back.flags.writeable


def test_arrays_in_any_layout_come_in_c_order():
    x, unflatten = flatten(np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]))
    assert x.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert unflatten.blocks[0].name == "x"


def test_the_way_back_takes_gradients_of_another_dtype():
    _, unflatten = flatten({"a": np.zeros(2, np.float32)})
    assert unflatten(np.array([1.0, 2.0]))["a"].dtype == np.float64


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (
            {"a": "text"},
            r"\['a'\] must be a real array, a number, or a dict, list or tuple of these, got str",
        ),
        ([True], r"\[0\] must be a real array.*got bool"),
        ([np.zeros(2, complex)], r"\[0\].*got an array of dtype complex128"),
        ([np.array([None])], "got an array of dtype object"),
        (None, "tree must be a real array.*got NoneType"),
        ([{1, 2}], "got set"),
    ],
)
def test_what_is_no_number_is_refused(tree, sentence):
    with pytest.raises(ArgumentTypeError, match=sentence):
        flatten(tree)


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((2, 1)), [0.0, 0.0]])
def test_a_vector_of_another_size_is_refused(x):
    _, unflatten = flatten(np.zeros(2))
    with pytest.raises(ArgumentError, match=r"x must have shape \(2,\), got"):
        unflatten(x)


def test_numbers_of_python_may_be_nan_and_members_of_an_enumeration() -> None:
    class Size(enum.IntEnum):
        ONE = 1

    x, _ = flatten({"a": float("nan"), "b": Size.ONE})
    np.testing.assert_array_equal(x, [np.nan, 1.0])
