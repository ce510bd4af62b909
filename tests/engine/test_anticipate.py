"""Working ahead: what is done while gradients are computed changes no bit, and saves the work
afterwards.
"""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import optex_core as ox
from optex_core.model import estimator
from optex_core.model import likelihood as tuning
from optex_core.problems.quadratic import Quadratic
from optex_core.strategies._subspace import space as affine

PROBLEM = Quadratic(40, condition=100.0)
OPTIMIZERS = {"adam": ox.Adam(0.05), "momentum": ox.SGD(0.1, momentum=0.9)}


def run(ahead, *, optimizer="adam", lose=lambda t, i: False, extra=False, **options):
    """Points asked for over 14 rounds; `ahead` is what is called between ask and tell."""
    engine = ox.OptEx(
        PROBLEM.start(0),
        optimizer=OPTIMIZERS[optimizer],
        parallelism=4,
        rng=0,
        maxiter=14,
        **options,
    )
    rng, points = np.random.default_rng(1), []
    while not engine.stop():
        candidates = engine.ask()
        ahead(engine)
        if extra and engine.state.nit == 6:
            engine.add_observations(*(rng.standard_normal((2, 3, 40))))
        for i, c in enumerate(candidates):
            points.append(np.array(c.x))
            if lose(engine.state.nit, i):
                engine.tell(c.id, error=RuntimeError("lost"))
            else:
                value, gradient = PROBLEM(c.x)
                engine.tell(c.id, gradient=gradient, value=value)
    return engine, points


CASES = {
    "auto": {},
    "paper": {"strategy": "paper"},
    "short history": {"estimator": ox.GradientEstimator(history=7)},
    "dims": {"estimator": ox.GradientEstimator(kernel_dims=9)},
    "scale": {"x_scale": np.geomspace(1.0, 3.0, 40)},
    "fixed": {"estimator": ox.GradientEstimator(tune="fixed")},
    "every": {"estimator": ox.GradientEstimator(every=3)},
    "zero mean": {"estimator": ox.GradientEstimator(mean="zero")},
    "lost": {"lose": lambda t, i: i > 0 and (t + i) % 3 == 0},
    "observations": {"extra": True},
    "numba": {"backend": "numba"},
}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("case", sorted(CASES))
def test_no_bit_depends_on_it(case, optimizer, monkeypatch):
    # momentum runs on coefficients, Adam on arrays
    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 1)
    plain, points = run(lambda engine: None, optimizer=optimizer, **CASES[case])
    ahead, same = run(lambda engine: engine.anticipate(), optimizer=optimizer, **CASES[case])
    assert len(points) == len(same)
    assert all(np.array_equal(a, b) for a, b in zip(points, same, strict=True))
    assert plain.trace == ahead.trace


@pytest.mark.parametrize(
    "options", [{}, {"kernel_dims": 9}, {"history": 7}], ids=["all", "dims", "short"]
)
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_the_eigenvalues_are_those_that_the_fit_wants(optimizer, options, monkeypatch):
    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 1)
    made = {"ahead": 0, "late": 0}

    def counted(place, original=tuning.make_likelihood_grid):
        def make_likelihood_grid(*args, **keywords):
            made[place] += 1
            return original(*args, **keywords)

        return make_likelihood_grid

    monkeypatch.setattr(estimator, "make_likelihood_grid", counted("ahead"))
    monkeypatch.setattr(tuning, "make_likelihood_grid", counted("late"))
    run(
        lambda engine: engine.anticipate(),
        optimizer=optimizer,
        estimator=ox.GradientEstimator(**options),
    )
    assert made["ahead"] >= 12
    assert made["late"] == 0


def test_nothing_to_do_before_a_round_and_after_a_run():
    engine = ox.OptEx(np.ones(3), parallelism=2, maxiter=1, rng=0)
    engine.anticipate()
    while not engine.stop():
        for c in engine.ask():
            engine.anticipate()
            engine.tell(c.id, gradient=c.x, value=float(c.x @ c.x))
    engine.anticipate()


@pytest.mark.parametrize(
    ("workers", "blas", "rows", "expected"),
    [
        ("threads", 1, 65, True),
        ("threads", 2, 65, False),
        ("threads", 2, 64, True),
        ("threads", 2, None, True),
        (2, 2, 65, True),
        (None, 1, None, False),
    ],
)
def test_the_loop_works_ahead_while_workers_are_busy(
    workers, blas, rows, expected, monkeypatch, tmp_path
):
    """Beside threads not where BLAS would have to be held at one thread: that would change what
    user code computes at that moment.
    """
    calls, folder = [], str(tmp_path)
    original = ox.OptEx.anticipate

    def noted(engine):
        calls.append(engine.state.nit)
        (tmp_path / str(engine.state.nit)).touch()
        original(engine)

    monkeypatch.setattr(ox.OptEx, "anticipate", noted)

    def slow(x, *, ctx):
        """Takes until the loop has worked ahead in this iteration, where it is to: it does not once
        a gradient is in.
        """
        import os
        import time

        end = time.monotonic() + (60.0 if expected and ctx.iteration < 5 else 0.0)
        while time.monotonic() < end and not os.path.exists(f"{folder}/{ctx.iteration}"):
            time.sleep(0.005)
        if not expected and workers is not None:
            time.sleep(0.02)
        return PROBLEM(x)

    options = {
        "parallelism": 4,
        "maxiter": 5,
        "rng": 0,
        "optimizer": ox.SGD(0.5),
        "estimator": ox.GradientEstimator(history=rows),
    }
    with threadpool_limits(blas, user_api="blas"):
        result = ox.minimize(slow, PROBLEM.start(0), workers=workers, **options)
    assert set(calls) >= set(range(5)) if expected else not calls
    alone = ox.minimize(PROBLEM, PROBLEM.start(0), **options)
    assert np.array_equal(result.x, alone.x)
