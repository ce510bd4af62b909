"""Clocks that a test moves, and time limits that only chosen calls exceed: it does not matter how
busy the machine is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from optex_core.async_sgd.burst_executors import BackgroundExecutor
from optex_core.execution.pool_evaluator import PoolEvaluator


class Clock:
    """Stands for `time.perf_counter`, by which the library measures, and moves only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now, self._lock = 0.0, threading.Lock()
        monkeypatch.setattr(time, "perf_counter", self)

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


def only_these_take_too_long(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[[int, int], bool]
) -> None:
    """Evaluations for which ``hangs(id, attempt)`` is true began an hour ago, the others now."""
    started = PoolEvaluator.started

    def seen(self: PoolEvaluator) -> dict[tuple[int, int], float]:
        return {key: time.perf_counter() - 3600.0 * hangs(*key) for key in started(self)}

    monkeypatch.setattr(PoolEvaluator, "started", seen)


def only_these_bursts_take_too_long(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[[int], bool]
) -> None:
    """Bursts for which ``hangs(id)`` is true are overdue, and no others."""

    def overdue(self: BackgroundExecutor, seconds: float) -> list[int]:
        return [burst_id for burst_id in self._workers.running if hangs(burst_id)]

    monkeypatch.setattr(BackgroundExecutor, "overdue", overdue)
