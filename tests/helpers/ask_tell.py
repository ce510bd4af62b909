"""An engine on a quadratic, answered by hand."""

from __future__ import annotations

import numpy as np

import optex_core as ox

X0 = np.array([3.0, -4.0, 1.0])
#: Strategies that ask for several points in a round.
WIDE = ["auto", "corrected", "data_parallel", "line_search", "paper", "repeat_last", "verified"]


def engine_of(**options):
    options = {
        "optimizer": ox.SGD(0.05, momentum=0.5),
        "strategy": "paper",
        "parallelism": 3,
        "maxiter": 20,
        "rng": 0,
    } | options
    return ox.OptEx(options.pop("x0", X0), **options)


def answer(engine, c, **more):
    engine.tell(
        c.id,
        gradient=2.0 * c.x * np.arange(1, len(c.x) + 1),
        value=float(c.x**2 @ np.arange(1.0, len(c.x) + 1)),
        **more,
    )


def rounds(engine, n):
    for _ in range(n):
        for c in engine.ask():
            answer(engine, c)
    return engine
