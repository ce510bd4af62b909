"""Success is never claimed where the final evaluation is not finite or where squares overflow."""

from __future__ import annotations

import numpy as np
import pytest

import optex_core as ox


@pytest.mark.parametrize("criterion", [{"xtol": 1.0}, {"ftol": 1.0}], ids=["xtol", "ftol"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_closing_value_that_is_not_finite_is_no_success(criterion, bad) -> None:
    def fun(x):
        return (bad if np.abs(x).max() < 0.6 else 0.5 * float(x @ x)), 1.0 * x

    options = {"optimizer": ox.SGD(0.5), "parallelism": 1, "maxiter": 10, "rng": 0}
    result = ox.minimize(fun, np.ones(3), **criterion, **options)
    assert not result.success
    assert result.status is ox.Status.DIVERGED
    assert result.stop == {"diverged": True}
    assert "the value is" in result.message


@pytest.mark.parametrize("name", ["adam", "adagrad"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 5e19), (np.float64, 1e160)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("criterion", [{"xtol": 1e-6}, {"ftol": 1e-6}], ids=["xtol", "ftol"])
def test_squares_that_overflow_are_no_convergence(name, dtype, scale, criterion) -> None:
    def fun(x):
        return scale * 0.5 * float(x @ x), (scale * x).astype(dtype)

    options = {"optimizer": name, "parallelism": 3, "maxiter": 30, "rng": 0, "backend": "numpy"}
    result = ox.minimize(fun, np.ones(3, dtype), **criterion, **options)
    assert not result.success
    assert f"squares overflow {np.dtype(dtype)}" in result.message
    assert "divide the function by a constant" in result.message


def test_an_exception_whose_text_raises_is_told_by_its_type() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    engine = ox.OptEx(np.ones(2), optimizer=ox.SGD(0.1), parallelism=1, rng=0)
    (candidate,) = engine.ask()
    engine.tell(candidate.id, error=Silent())
    assert "Silent" in engine.result().message
    assert engine.result().status is ox.Status.FAILED


def test_value_and_gradient_are_told_by_name() -> None:
    engine = ox.OptEx(2.0, optimizer=ox.SGD(0.1), parallelism=1, rng=0)
    (candidate,) = engine.ask()
    with pytest.raises(TypeError, match="positional"):
        engine.tell(candidate.id, 16.0, 4.0 * candidate.x**3)
    assert engine.state.njev == 0
