"""Evaluators under any sequence of submitting, waiting, cancelling and draining, with points that
fail and points that take long.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from wrapped_evaluator import EvaluatorWrapper

from optex_core.execution.factory import make_evaluator
from optex_core.testing.state_machines import evaluator_machine


@pytest.mark.parametrize("workers", [None, map, "threads"], ids=["serial", "map", "threads"])
def test_nothing_is_lost_or_doubled(workers):
    machine = evaluator_machine(lambda objective: make_evaluator(objective, workers, parallelism=2))
    run_state_machine_as_test(
        machine, settings=settings(max_examples=15, stateful_step_count=15, deadline=None)
    )


def test_processes():
    machine = evaluator_machine(lambda objective: make_evaluator(objective, 2))
    run_state_machine_as_test(
        machine, settings=settings(max_examples=2, stateful_step_count=12, deadline=None)
    )


def test_the_machine_finds_a_lost_outcome():
    class Forgetful(EvaluatorWrapper):
        def cancel(self):
            """Forget to."""

        def drain(self):
            outcomes = super().drain()
            return [*outcomes, *outcomes[:1]]

    machine = evaluator_machine(lambda objective: Forgetful(make_evaluator(objective, None)))
    with pytest.raises(AssertionError, match="came back twice, or was never submitted"):
        run_state_machine_as_test(
            machine, settings=settings(max_examples=60, stateful_step_count=10, deadline=None)
        )
