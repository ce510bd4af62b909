"""The engine is told from several threads at once, as done-callbacks of executors do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

import optex_core as ox

WEIGHTS = np.geomspace(1.0, 30.0, 12)


def run(workers: int) -> ox.OptEx:
    engine = ox.OptEx(
        np.ones(12),
        optimizer=ox.SGD(0.02, momentum=0.9),
        parallelism=8,
        rng=0,
        maxiter=25,
        gtol=0.0,
    )
    with ThreadPoolExecutor(workers) as pool:
        while not engine.stop():
            asked = engine.ask()
            together = Barrier(min(workers, len(asked)))

            def tell(
                c: ox.Candidate, together: Barrier = together, first: int = asked[0].id
            ) -> None:
                gradient, value = WEIGHTS * c.x, float(WEIGHTS @ (c.x * c.x)) / 2
                if c.id - first < together.parties:
                    together.wait()
                engine.tell(c.id, gradient=gradient, value=value)
                engine.result()
                engine.stop()

            list(pool.map(tell, asked))
    return engine


def test_four_threads_give_the_bits_of_one() -> None:
    alone, several = run(1), run(4)
    assert np.array_equal(alone.result().x, several.result().x)
    assert alone.trace == several.trace
    assert alone.state.njev == several.state.njev


def test_a_thousand_points_a_round_have_a_bounded_history() -> None:
    engine = ox.OptEx(np.ones(12), optimizer=ox.SGD(0.02), parallelism=1000, rng=0, maxiter=3)
    asked = []
    while not engine.stop():
        candidates = engine.ask()
        asked.append(len(candidates))
        for c in candidates:
            engine.tell(c.id, gradient=WEIGHTS * c.x, value=float(WEIGHTS @ (c.x * c.x)) / 2)
    assert max(asked) > 900
    assert engine.machine.surrogate.history.capacity == 512
