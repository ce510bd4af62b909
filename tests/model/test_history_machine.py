"""The history against a list, under any sequence of appending and of saving and restoring."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from optex_core.model.history import History
from optex_core.testing.state_machines import history_machine


def test_history_is_a_list():
    run_state_machine_as_test(
        history_machine(), settings=settings(max_examples=60, stateful_step_count=25)
    )


def test_the_machine_finds_a_lost_row():
    class Faulty(History):
        def chronological_order(self):
            return (
                super().chronological_order()[::-1]
                if self.total == 3
                else super().chronological_order()
            )

    with pytest.raises(AssertionError, match="newest row, last in that order"):
        run_state_machine_as_test(
            history_machine(Faulty),
            settings=settings(max_examples=60, stateful_step_count=10, report_multiple_bugs=False),
        )
