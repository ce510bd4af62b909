"""What evaluators are given and give back."""

from __future__ import annotations

import importlib.util

import pytest


def finish(evaluator):
    """All outcomes that are pending, by id."""
    outcomes = []
    while evaluator.pending:
        outcomes += evaluator.next(timeout=60)
    return sorted(outcomes, key=lambda o: o.candidate.id)


def need(library):
    """Skip the test where an optional library is missing."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
