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
        pytest.param({"kernel": "matern51"}, ArgumentError, "did you mean", id="kernel typo"),
        pytest.param({"kernel": 3}, ArgumentTypeError, "kernel must be", id="kernel number"),
        pytest.param(
            {"history": 1}, ArgumentError, "history must be an integer >= 2", id="history 1"
        ),
        pytest.param(
            {"history": 2.5}, ArgumentTypeError, "history must be an integer", id="history float"
        ),
        pytest.param(
            {"history": True}, ArgumentTypeError, "history must be an integer", id="history bool"
        ),
        pytest.param({"mean": "lineer"}, ArgumentError, "did you mean 'linear'", id="mean typo"),
        pytest.param(
            {"tune": "likelyhood"}, ArgumentError, "did you mean 'likelihood'", id="tune typo"
        ),
        pytest.param({"tune": None}, ArgumentTypeError, "tune must be one of", id="tune none"),
        pytest.param(
            {"length_scale": 0.0}, ArgumentError, "length_scale must be", id="length zero"
        ),
        pytest.param(
            {"length_scale": -1.0}, ArgumentError, "length_scale must be", id="length negative"
        ),
        pytest.param(
            {"length_scale": math.inf},
            ArgumentError,
            "length_scale must be finite",
            id="length infinite",
        ),
        pytest.param(
            {"length_scale": math.nan}, ArgumentError, "length_scale must be", id="length nan"
        ),
        pytest.param({"noise": -1e-9}, ArgumentError, "noise must be", id="noise negative"),
        pytest.param({"noise": math.inf}, ArgumentError, "noise must be", id="noise infinite"),
        pytest.param(
            {"noise": "small"}, ArgumentTypeError, "noise must be a number", id="noise text"
        ),
        pytest.param(
            {"kernel_dims": 0},
            ArgumentError,
            "kernel_dims must be an integer >= 1",
            id="kernel_dims zero",
        ),
        pytest.param({"every": 0}, ArgumentError, "every must be an integer >= 1", id="every zero"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        GradientEstimator(**settings)


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param((GOOD[0], GOOD[0]), ArgumentError, "one shape", id="vectors"),
        pytest.param((GOOD, GOOD[:2]), ArgumentError, "one shape", id="different shapes"),
        pytest.param((GOOD[:0], GOOD[:0]), ArgumentError, "n >= 1", id="no rows"),
        pytest.param((GOOD * [[1], [math.nan], [1]], GOOD), ArgumentError, "row 1", id="nan in X"),
        pytest.param((GOOD, GOOD + [[0], [0], [math.inf]]), ArgumentError, "row 2", id="inf in G"),
        pytest.param((GOOD, GOOD + 1j), ArgumentTypeError, "real numbers", id="complex"),
        pytest.param(
            (GOOD.astype(np.float16), GOOD), ArgumentTypeError, "float16", id="half precision"
        ),
        pytest.param(([[1.0], [1.0, 2.0]], GOOD), ArgumentTypeError, "ragged", id="ragged"),
        pytest.param((GOOD, [["a"] * 3] * 3), ArgumentTypeError, "real numbers", id="text"),
        pytest.param((None, GOOD), ArgumentTypeError, "real numbers", id="none"),
        pytest.param(
            (GOOD, GOOD, [1.0, 2.0]),
            ArgumentError,
            "x_scale must be a positive finite number or 3",
            id="short x_scale",
        ),
        pytest.param(
            (GOOD, GOOD, [1.0, -2.0, 1.0]),
            ArgumentError,
            "x_scale must be a positive",
            id="negative x_scale",
        ),
        pytest.param(
            (GOOD, GOOD, math.nan), ArgumentError, "x_scale must be a positive", id="nan x_scale"
        ),
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
