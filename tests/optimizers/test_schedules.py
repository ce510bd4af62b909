"""Schedules: PyTorch's numbers, the edges, the plateau, and the sentences for wrong rates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StatefulSchedule,
    Step,
    WarmUp,
    check_rate,
    initial_state,
    rate_at,
)

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "torch_trajectories.json").read_text(
        encoding="utf-8"
    )
)

EXAMPLES: dict[str, dict[str, Any]] = {
    "constant": {"value": 0.1},
    "cosine": {"initial": 0.1, "steps": 7},
    "exponential": {"initial": 0.1, "decay": 0.5, "every": 3},
    "one_cycle": {"highest": 0.1, "steps": 7},
    "reduce_on_plateau": {"inner": 0.1},
    "step": {"initial": 0.1, "every": 3},
    "warm_up": {"inner": 0.1, "steps": 3},
}


def played(schedule: Any, values: list[float]) -> list[float]:
    state, rates = initial_state(schedule), []
    for t, value in enumerate(values):
        rate, state = rate_at(schedule, t, state, value)
        rates.append(rate)
    return rates


@pytest.mark.parametrize("case", REFERENCE["schedules"], ids=lambda case: case["name"])
def test_rates_are_those_of_pytorch(case):
    # PyTorch multiplies from step to step where we take powers: some ulps over 20 steps.
    schedule = SCHEDULES[case["name"]](**case["settings"])
    values = (REFERENCE["values"] + [math.nan] * len(case["rates"]))[: len(case["rates"])]
    assert played(schedule, values) == pytest.approx(case["rates"], rel=1e-13)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_schedule_gives_finite_rates_for_ever_and_has_an_example_here(name):
    schedule = SCHEDULES[name](**EXAMPLES[name])
    assert isinstance(schedule, Schedule) != isinstance(schedule, StatefulSchedule)
    state = initial_state(schedule)
    for t in [*range(30), 10**6]:
        rate, state = rate_at(schedule, t, state, 1.0)
        assert 0.0 <= rate <= 0.1
        assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("schedule", "t", "expected"),
    [
        (Constant(0.3), 10**9, 0.3),
        (Exponential(0.4, 0.25, every=2), 1, 0.2),
        (Exponential(0.4, 1.0), 50, 0.4),
        (Step(0.4, 5, 0.5), 4, 0.4),
        (Step(0.4, 5, 0.5), 5, 0.2),
        (Cosine(0.4, 10), 0, 0.4),
        (Cosine(0.4, 10, final=0.2), 5, 0.3),
        (Cosine(0.4, 10), 10, 0.0),
        (Cosine(0.4, 10, final=0.1), 11, 0.1),
        (Cosine(0.4, 1), 1, 0.0),
        (WarmUp(0.4, 3), 0, 0.1),
        (WarmUp(0.4, 3), 2, 0.3),
        (WarmUp(0.4, 3), 3, 0.4),
        (WarmUp(0.4, 0), 0, 0.4),
        (WarmUp(Step(0.4, 2, 0.5), 3), 5, 0.2),
        (WarmUp(lambda t: 0.4 / (1 + t), 3), 4, 0.2),
        (OneCycle(0.5, 20), 0, 0.02),
        (OneCycle(0.5, 20), 5, 0.5),
        (OneCycle(0.5, 20), 19, 2e-6),
        (OneCycle(0.5, 20), 500, 2e-6),
    ],
)
def test_edges(schedule, t, expected):
    # The exact numbers, up to the rounding of one cosine near its zeros (1e-16 of the amplitude).
    assert schedule(t) == pytest.approx(expected, rel=1e-14, abs=1e-16)


@given(st.floats(1e-6, 10), st.integers(1, 50), st.integers(0, 200))
def test_warm_up_never_has_rate_zero_and_never_exceeds_its_end(rate, steps, t):
    schedule = WarmUp(rate, steps)
    assert 0 < schedule(t) <= rate
    assert schedule(t) <= schedule(t + 1)


def test_plateau_reduces_after_more_than_patience_bad_values():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=2, threshold=0.0)
    assert played(schedule, [3.0, 3.0, 3.0, 3.0, 3.0]) == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_plateau_ignores_unknown_values():
    schedule = ReduceOnPlateau(1.0, patience=0)
    state = schedule.observe(schedule.initial(), 2.0)
    assert schedule.observe(state, math.nan) == state
    assert played(schedule, [math.nan] * 50) == [1.0] * 50


def test_plateau_works_with_negative_and_infinite_values():
    falling = ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.1)
    assert played(falling, [-1.0, -1.2, -1.4, -1.41]) == [1.0, 1.0, 1.0, 0.5]
    assert played(ReduceOnPlateau(1.0, factor=0.5, patience=0), [math.inf, 1.0, -math.inf]) == [
        0.5,
        0.5,
        0.5,
    ]


def test_plateau_cools_down_and_stops_at_the_lowest_rate():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, cooldown=2, lowest=0.3)
    assert played(schedule, [1.0] * 8) == [1.0, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


def test_plateau_reduces_what_a_schedule_gives():
    schedule = ReduceOnPlateau(WarmUp(0.4, 3), factor=0.5, patience=1, lowest=0.15)
    # `lowest` does not lift a schedule that is below it by itself.
    assert played(schedule, [1.0, 1.0, 1.0, 1.0]) == pytest.approx([0.1, 0.2, 0.15, 0.2], rel=1e-15)


def test_plateau_observing_changes_nothing_given():
    schedule = ReduceOnPlateau(1.0)
    state = schedule.initial()
    schedule.observe(state, 1.0)
    assert state == schedule.initial()


def test_a_number_and_a_callable_are_schedules_without_state():
    assert rate_at(0.1, 5) == (0.1, ())
    assert rate_at(lambda t: 1 / (1 + t), 1) == (0.5, ())
    assert initial_state(0.1) == initial_state(abs) == ()


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_wrong_rate_names_the_schedule_and_the_step(bad, stateful):
    def decaying(t: int) -> float:
        return 0.1 if t < 7 else bad

    if stateful:

        class Named(StatefulSchedule):
            name = "named"

            def initial(self):
                return ()

            def observe(self, state, value):
                return state

            def rate(self, t, state):
                return decaying(t)

            def __repr__(self):
                return "decaying"

        schedule: Any = Named()
    else:
        schedule = decaying
    assert rate_at(schedule, 6)[0] == 0.1
    with pytest.raises(
        ArgumentError,
        match=r"the schedule .*decaying.* must return a finite rate >= 0, got .* at step t = 7",
    ):
        rate_at(schedule, 7)


def test_a_schedule_that_returns_no_number_is_named():
    with pytest.raises(ArgumentTypeError, match=r"must return a number, got None at step t = 0"):
        rate_at(lambda t: None, 0)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Constant(0.0), "value must be a number > 0"),
        (lambda: Constant("0.1"), "value must be a number, got '0.1'"),  # type: ignore[arg-type]
        (lambda: Exponential(0.1, 1.5), "decay must be a number > 0 and <= 1"),
        (lambda: Exponential(0.1, 0.5, 0), "every must be an integer >= 1"),
        (lambda: Step(0.1, 2.5), "every must be an integer"),  # type: ignore[arg-type]
        (lambda: Step(0.1, 2, -1.0), "factor must be"),
        (lambda: Cosine(0.1, 0), "steps must be an integer >= 1"),
        (lambda: Cosine(0.1, 5, 0.2), "final must be a number >= 0 and <= 0.1"),
        (lambda: WarmUp(-0.1, 3), "inner must be a number > 0"),
        (
            lambda: WarmUp(Cosine, 3),
            r"inner must be a number or a schedule object, got the class Cosine",
        ),
        (lambda: WarmUp(0.1, -1), "steps must be an integer >= 0"),
        (
            lambda: WarmUp(ReduceOnPlateau(0.1), 3),
            r"put the warm-up inside: ReduceOnPlateau\(WarmUp",
        ),  # type: ignore[arg-type]
        (lambda: OneCycle(0.1, 1), "steps must be an integer >= 2"),
        (lambda: OneCycle(0.1, 3), r"rise \* steps must exceed 1, got 0.3 \* 3"),
        (lambda: OneCycle(0.1, 30, rise=1.0), "rise must be a number > 0 and < 1"),
        (lambda: OneCycle(0.1, 30, divisor=0.5), "divisor must be a number >= 1"),
        (lambda: ReduceOnPlateau(0.1, factor=1.0), "factor must be a number > 0 and < 1"),
        (lambda: ReduceOnPlateau(0.1, patience=-1), "patience must be an integer >= 0"),
        (lambda: ReduceOnPlateau(ReduceOnPlateau(0.1)), "cannot wrap ReduceOnPlateau"),  # type: ignore[arg-type]
        (lambda: check_rate("learning_rate", 0.0), "learning_rate must be a number > 0"),
        (lambda: check_rate("learning_rate", math.inf), "learning_rate must be finite"),
        (lambda: check_rate("learning_rate", None), "learning_rate must be a number"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(make, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        make()


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(ArgumentError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        SCHEDULES["cosin"]
