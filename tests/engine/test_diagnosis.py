"""What is said about learning rates: in words, where it shows, and not at rates that suit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

import optex_core as ox
from optex_core.engine.diagnosis import describe_learning_rate
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.optimizers.base import Optimizer
from optex_core.problems import get_problem


def trace(values, accepted=1):
    found = Trace()
    for t, value in enumerate(values):
        found.append(IterationRecord(t, value, evaluations=4, accepted=accepted, window=accepted))
    return found


FALLING = 0.9 ** np.arange(30)


@pytest.mark.parametrize(
    ("values", "accepted", "at_limit", "words"),
    [
        (FALLING, 8, True, ""),
        (
            1.0 + np.arange(30),
            8,
            True,
            "ended above its start \\(30 from 1\\).*too high; try a tenth",
        ),
        (1.0 + np.arange(30), 8, False, "too high"),
        ([30.0, *FALLING[:9], *(7.0 + np.arange(20))], 8, True, "is 20 iterations old"),
        ([*FALLING[:10], math.nan, *[math.inf] * 18], 8, True, "too high"),
        (FALLING, 32, True, "at their cap of 32 steps, and 17% .* too low; try 3 to 10 times"),
        (FALLING, 32, False, ""),  # it converged
        (0.5 ** np.arange(30), 32, True, ""),  # it is nearly there
        (FALLING, 31, True, ""),
        (1.0 + np.arange(9), 8, True, ""),  # too short to tell
        (np.full(30, math.nan), 32, True, ""),  # no values
        (np.ones(30), 32, True, ""),
    ],
)
def test_what_values_and_windows_say(values, accepted, at_limit, words):
    found = describe_learning_rate(trace(values, accepted), 4, at_limit=at_limit)
    assert re.search(words, found) if words else found == "", found


def run(optimizer, name="quadratic", **options):
    problem = get_problem(name)
    return ox.minimize(problem, problem.start(1), optimizer=optimizer, maxiter=40, **options)


@pytest.mark.parametrize("strategy", ["auto", "sequential"])
def test_a_rate_far_too_high_is_told_in_message_and_log(strategy, caplog):
    res = run(ox.Adam(50.0), "rosenbrock", strategy=strategy)
    assert res.message.startswith("The largest number of iterations was reached. The value ended")
    assert "the learning rate looks too high; try a tenth of it." in res.message
    assert "the learning rate looks too high" in caplog.text


def test_a_rate_far_too_low_is_told(caplog):
    res = run(ox.Adam(1e-5), "rosenbrock")
    assert "the learning rate looks too low; try 3 to 10 times as much." in res.message
    assert "the learning rate looks too low" in caplog.text


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("quadratic", ox.SGD(1.0)),
        ("quadratic", ox.SGD(0.3, momentum=0.9)),
        ("logistic", ox.Adam(0.05)),
        ("rosenbrock", ox.Adam(0.05)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("N", [1, 4])
def test_nothing_is_said_at_rates_that_suit(name, optimizer, N, caplog):
    res = run(optimizer, name, parallelism=N)
    assert "learning rate" not in res.message
    assert "learning rate" not in caplog.text


def test_a_run_that_diverged_says_that_its_values_rose():
    messages = []
    res = run(ox.SGD(1e12), callback=lambda r: messages.append(r.message), strategy="sequential")
    assert set(messages[:-1]) == {"The run is not finished."}
    assert res.message.count("learning rate") == 1
    assert "the value is inf" in res.message
    assert re.search("had risen to .* from .*: the learning rate looks too high", res.message)


def test_the_message_of_a_long_point_is_one_line():
    def fun(x):
        return np.nan, x

    res = ox.minimize(fun, np.logspace(-150, 150, 40), optimizer=ox.SGD(0.1))
    assert "x = [" in res.message
    assert "\n" not in res.message


def test_optimizers_of_this_library_without_a_rate_are_not_told_to_change_it():
    @dataclass(frozen=True)
    class Climber(Optimizer):
        def init(self, x, *, backend=None):
            return None

        def step(self, x, g, state, *, value=math.nan, trusted=True, backend=None):
            return x + 0.1 * g, state

    assert run(Climber(), parallelism=1).message == "The largest number of iterations was reached."
