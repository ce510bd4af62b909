"""From what the user calls ``workers`` to an engine."""

from __future__ import annotations

from typing import Any

from optex_core._checks import choice, shown
from optex_core.async_sgd.engines.base import Engine
from optex_core.async_sgd.engines.serial import Serial
from optex_core.async_sgd.engines.threads import Threads
from optex_core.async_sgd.team import Team
from optex_core.errors import ArgumentTypeError


def make_engine(team: Team, workers: Any, parallelism: int) -> Engine:
    """The engine that `workers` stands for; see `run`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `workers` is nothing that runs bursts.
    """
    if workers is None:
        return Serial(team)
    if isinstance(workers, str):
        choice("workers", workers, ("threads", "processes"))
        if workers == "threads":
            return Threads(team, parallelism)
    raise ArgumentTypeError(f"workers must be None (this thread) or 'threads', got {shown(workers)}")
