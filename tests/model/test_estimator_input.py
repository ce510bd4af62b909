"""What an estimator refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.model.estimator import GradientEstimator


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"kernel": "matern51"}, ArgumentError, "did you mean"),
        ({"kernel": 3}, ArgumentTypeError, "kernel must be"),
        ({"history": 1}, ArgumentError, "history must be an integer >= 2"),
        ({"history": 2.5}, ArgumentTypeError, "history must be an integer"),
        ({"history": True}, ArgumentTypeError, "history must be an integer"),
        ({"mean": "lineer"}, ArgumentError, "did you mean 'linear'"),
        ({"tune": "likelyhood"}, ArgumentError, "did you mean 'likelihood'"),
        ({"tune": None}, ArgumentTypeError, "tune must be one of"),
        ({"length_scale": 0.0}, ArgumentError, "length_scale must be"),
        ({"length_scale": -1.0}, ArgumentError, "length_scale must be"),
        ({"length_scale": math.inf}, ArgumentError, "length_scale must be finite"),
        ({"length_scale": math.nan}, ArgumentError, "length_scale must be"),
        ({"noise": -1e-9}, ArgumentError, "noise must be"),
        ({"noise": math.inf}, ArgumentError, "noise must be"),
        ({"noise": "small"}, ArgumentTypeError, "noise must be a number"),
        ({"kernel_dims": 0}, ArgumentError, "kernel_dims must be an integer >= 1"),
        ({"every": 0}, ArgumentError, "every must be an integer >= 1"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        GradientEstimator(**settings)


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((GOOD[0], GOOD[0]), ArgumentError, "one shape"),
        ((GOOD, GOOD[:2]), ArgumentError, "one shape"),
        ((GOOD[:0], GOOD[:0]), ArgumentError, "n >= 1"),
        ((GOOD * [[1], [math.nan], [1]], GOOD), ArgumentError, "row 1"),
        ((GOOD, GOOD + [[0], [0], [math.inf]]), ArgumentError, "row 2"),
        ((GOOD, GOOD + 1j), ArgumentTypeError, "real numbers"),
        ((GOOD.astype(np.float16), GOOD), ArgumentTypeError, "float16"),
        (([[1.0], [1.0, 2.0]], GOOD), ArgumentTypeError, "ragged"),
        ((GOOD, [["a"] * 3] * 3), ArgumentTypeError, "real numbers"),
        ((None, GOOD), ArgumentTypeError, "real numbers"),
        ((GOOD, GOOD, [1.0, 2.0]), ArgumentError, "x_scale must be a positive finite number or 3"),
        ((GOOD, GOOD, [1.0, -2.0, 1.0]), ArgumentError, "x_scale must be a positive"),
        ((GOOD, GOOD, math.nan), ArgumentError, "x_scale must be a positive"),
    ],
)
def test_bad_rows(arguments, error, words):
    with pytest.raises(error, match=words):
        GradientEstimator().fit(*arguments)


def test_more_kernel_dims_than_parameters():
    with pytest.raises(
        ArgumentError, match="kernel_dims must be at most the number of parameters 3, got 4"
    ):
        GradientEstimator(kernel_dims=4).fit(GOOD, GOOD)
