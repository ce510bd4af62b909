"""The recipe in `optimizers.base` is a working optimizer, and breaking its contract is told in one
sentence.
"""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from fresh_python import run_python

import optex_core as ox
from optex_core.optimizers import base
from optex_core.optimizers.base import ElementwiseOptimizer


def recipe() -> str:
    """The file in the docstring of `optimizers.base`."""
    return textwrap.dedent(inspect.cleandoc(base.__doc__ or "").partition("::\n\n")[2])


SCRIPT = """
import sys
import numpy as np
import optex_core.optimizers
optex_core.optimizers.__path__.append(sys.argv[1])
import optex_core as ox
from optex_core import testing
assert ox.Yogi is ox.optimizers.Yogi
assert "learning_rate : float or schedule, default 0.01" in ox.Yogi.__doc__
results = testing.check_optimizer(ox.Yogi)
assert len(results) > 10, results
h = np.array([1.0, 10.0])
for backend in ("numpy", "numba"):
    fun = lambda x: (h * x @ x / 2, h * x)
    res = ox.minimize(fun, [3.0, -2.0], optimizer="yogi", backend=backend, maxiter=50)
    assert res.fun < 20.0, (backend, res.fun)
"""


@pytest.mark.filterwarnings("default")
def test_the_recipe_is_an_optimizer(tmp_path):
    (tmp_path / "yogi.py").write_text(recipe())
    run_python(SCRIPT, tmp_path)


def test_the_recipe_follows_its_formula():
    scope: dict[str, Any] = {"__name__": __name__}
    source = recipe().replace("@OPTIMIZERS.register\n", "").replace(", slots=True", "")
    exec(compile(source, "yogi.py", "exec"), scope)
    optimizer, x, m, v = scope["Yogi"](0.1), np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    at, state = x, optimizer.init(x)
    for t in range(1, 6):
        g = np.cos(t * x)
        at, state = optimizer.step(at, np.cos(t * x), state)
        m = 0.9 * m + 0.1 * g
        v = v - 0.001 * np.sign(v - g * g) * g * g
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
        x, expected = at, x - 0.1 * step
        np.testing.assert_allclose(at, expected, rtol=1e-12)


@dataclass(frozen=True)
class Own(ElementwiseOptimizer):
    """Somebody's optimizer."""

    name: ClassVar[str] = "own"
    rule: Any = None
    learning_rate: float = 0.1
    slot_names: tuple[str, ...] = ("m", "v")

    def scalars(self, t, rate, host_scalars):
        return rate, 0.9, 1e-8


def _too_few(xp):
    return lambda x, g, m, v, rate: (x - rate * g, m, v)


def _too_many(xp):
    return lambda x, g, m, v, rate, b, eps, extra: (x - rate * g, m, v)


def _other_results(xp):
    return lambda x, g, m, v, rate, b, eps: (x - rate * g, m)


def _literal(xp):
    return lambda x, g, m, v, rate, b, eps: (x - 0.5 * rate * g, m, v)


def _nested_literal(xp):
    def step(x, g, m, v, rate, b, eps):
        def half(y):
            return 0.5 * y

        return x - rate * half(g), m, v

    return step


def _reduction(xp):
    return lambda x, g, m, v, rate, b, eps: (x - rate * (g - xp.mean(g)), m, v)


def _counter(xp):
    taken = [0]

    def step(x, g, m, v, rate, b, eps):
        taken[0] += 1
        return x - rate * g / taken[0], m, v

    return step


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (_too_few, r"takes 5 arguments but is given 7 \(x, g, m, v, 3 scalars\)"),
        (_too_many, r"takes 8 arguments but is given 7 \(x, g, m, v, 3 scalars\)"),
        (_other_results, "returns 2 arrays, not 3: x and 2 state vectors"),
        (_literal, "contains the literal 0.5"),
        (_nested_literal, "contains the literal 0.5"),
        (_reduction, "gives an entry another value where other entries are absent"),
        (_counter, "gives other results when it is called again"),
    ],
)
def test_a_rule_that_breaks_the_contract_is_refused_in_one_sentence(rule, words):
    for use in (
        lambda: Own(rule).init(np.ones(3)),
        lambda: ox.OptEx(np.ones(3), optimizer=Own(rule)),
        lambda: ox.minimize(lambda x: (x @ x, 2 * x), np.ones(3), optimizer=Own(rule)),
    ):
        with pytest.raises(ox.ArgumentError, match=f"{words}.*no float literals") as raised:
            use()
        assert "\n" not in str(raised.value)


def test_a_rule_of_any_number_of_arguments_is_taken():
    rule = lambda xp: lambda x, g, *rest: (x - rest[2] * g, *rest[:2])  # noqa: E731
    optimizer, x = Own(rule), np.ones(3)
    found, state = optimizer.step(x, x, optimizer.init(x))
    assert found.tolist() == [0.9] * 3
    assert state.t == 1
