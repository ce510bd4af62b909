"""What a function of the user returns is read strictly: one sentence says what came in place of
what, and nothing is lost by it.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from one_sentence import assert_one_sentence

import optex_core as ox
from optex_core.errors import ObjectiveError

X0 = np.array([3.0, -4.0])


def fun(x):
    return float(x @ x), 2 * x


def value(x):
    return float(x @ x)


RETURNS = [
    ("None", lambda x: None, r"must return \(value, gradient\) because jac=True, got None"),
    ("value alone", lambda x: 1.0, "pass the gradient as jac=callable, or jac='2-point'"),
    ("three", lambda x: (1.0, 2 * x, 3), "got a tuple of length 3"),
    ("array pair", lambda x: np.ones(2), r"must return \(value, gradient\)"),
    ("generator", lambda x: (v for v in (1.0, 2 * x)), r"must return \(value, gradient\)"),
    ("value None", lambda x: (None, 2 * x), "returned None as its value; is a `return` missing"),
    ("value vector", lambda x: (x, 2 * x), "must return one number as its value"),
    ("value complex", lambda x: (1j, 2 * x), "complex value"),
    ("value text", lambda x: ("1.0", 2 * x), "value of dtype <U3"),
    ("value bool", lambda x: (True, 2 * x), "value of dtype bool"),
    ("swapped", lambda x: (2 * x, 1.0), "must return one number as its value"),
    ("gradient None", lambda x: (1.0, None), "returned None as its gradient"),
    ("gradient short", lambda x: (1.0, x[:1]), r"gradient of shape \(2,\), got shape \(1,\)"),
    (
        "gradient column",
        lambda x: (1.0, x[:, None]),
        r"gradient of shape \(2,\), got shape \(2, 1\)",
    ),
    (
        "gradient matrix",
        lambda x: (1.0, np.asmatrix(x)),
        r"gradient of shape \(2,\), got shape \(1, 2\)",
    ),
    ("gradient scalar", lambda x: (1.0, 2.0), r"gradient of shape \(2,\), got shape \(\)"),
    ("gradient complex", lambda x: (1.0, x * 1j), "complex gradient"),
    ("gradient ragged", lambda x: (1.0, [1.0, [2.0, 3.0]]), "no array of numbers"),
    ("gradient objects", lambda x: (1.0, np.array([None, 1.0])), "gradient of dtype object"),
    ("gradient text", lambda x: (1.0, ["a", "b"]), "gradient of dtype <U1"),
    ("gradient dict", lambda x: (1.0, {"a": 1.0}), "gradient of dtype object"),
    ("gradient masked", lambda x: (1.0, np.ma.masked_array(x, [True, False])), "masked entries"),
    ("gradient bool", lambda x: (1.0, x > 0), "gradient of dtype bool"),
]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(
    ("bad", "says"), [pytest.param(f, says, id=name) for name, f, says in RETURNS]
)
@pytest.mark.parametrize("workers", [None, "threads"])
def test_what_fun_returns_is_read_strictly_and_nothing_is_lost(bad, says, workers):
    calls, lock = [], threading.Lock()

    def turns_bad(x):
        with lock:
            calls.append(1)
            good = len(calls) <= 4
        return fun(x) if good else bad(x)

    with pytest.raises(ObjectiveError, match=says) as caught:
        ox.minimize(turns_bad, X0, optimizer=ox.SGD(0.1), parallelism=3, workers=workers, rng=0)
    assert_one_sentence(caught.value)
    assert "turns_bad" in str(caught.value)
    result = caught.value.partial_result
    assert result.nit == 2
    assert result.best_fun < fun(X0)[0]


@pytest.mark.parametrize(
    ("jac", "says"),
    [
        (lambda x: None, "returned None as its gradient"),
        (lambda x: (1.0, 2 * x), "no array of numbers|gradient of"),
        (lambda x: x[:1], r"shape \(2,\), got shape \(1,\)"),
    ],
    ids=["None", "pair", "short"],
)
def test_what_jac_returns_is_read_strictly(jac, says):
    for f in (value, None):
        with pytest.raises(ObjectiveError, match=says):
            ox.minimize(f, X0, jac=jac)


def test_a_fun_that_returns_a_pair_to_differences_is_told_so():
    with pytest.raises(ObjectiveError, match="if it returns \\(value, gradient\\), pass jac=True"):
        ox.minimize(fun, X0, jac="2-point")
    with pytest.raises(ObjectiveError, match="jac='cs' needs a fun that computes with complex x"):
        ox.minimize(lambda x: float(np.real(x) @ np.real(x)), X0, jac="cs")


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda X: (1.0, 2 * X), r"one value per row, shape \(1,\)|because vectorized=True"),
        (lambda X: (np.ones(len(X) + 1), 2 * X), r"one value per row"),
        (lambda X: (np.ones(len(X)), X[0]), r"gradient of shape"),
    ],
    ids=["scalar", "too many", "one row"],
)
def test_what_a_vectorized_fun_returns_is_read_strictly(returned, says):
    with pytest.raises(ObjectiveError, match=says):
        ox.minimize(
            lambda X: returned(X) if len(X) > 1 else (np.ones(1), 2 * X),
            X0,
            vectorized=True,
            parallelism=3,
        )
