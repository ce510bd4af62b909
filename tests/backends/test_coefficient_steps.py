"""Walks on coefficients: one compiled call, step by step, and any optimizer's own `step`, all with
the same outcome.
"""

from __future__ import annotations

import numpy as np
import pytest

import optex_core as ox
from optex_core.model.kernels.base import KERNELS, traced_kernel
from optex_core.optimizers._on_backend import OptimizerOnBackend, bind_optimizer
from optex_core.optimizers.schedules import Step
from optex_core.problems.quadratic import Quadratic
from optex_core.strategies._subspace import space as affine
from optex_core.strategies._subspace.rollout import SubspaceRollout

pytest.importorskip("numba")
from optex_core.backends.numba_ import NumbaBackend

QUADRATIC = Quadratic(d=40, condition=100.0, rotated=True)
OPTIMIZERS = {
    "sgd": lambda: ox.SGD(0.3),
    "nesterov": lambda: ox.SGD(Step(0.1, 5, 0.5), momentum=0.9, nesterov=True),
    "decoupled decay": lambda: ox.WeightDecay(ox.SGD(0.1, momentum=0.9), Step(0.01, 3, 0.5)),
    "best so far": lambda: ox.BestSoFar(ox.SGD(0.3)),
}


@pytest.fixture(autouse=True)
def small_problems(monkeypatch):
    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 1)


@pytest.fixture
def walks(monkeypatch):
    """How many rollouts on coefficients were compiled, and how many were not."""
    count, init = {"compiled": 0, "plain": 0}, SubspaceRollout.__init__

    def counted(self, *args):
        init(self, *args)
        count["compiled" if self.compiled else "plain"] += 1

    monkeypatch.setattr(SubspaceRollout, "__init__", counted)
    return count


def run(problem=QUADRATIC, rounds=8, x0=None, **options):
    x0 = QUADRATIC.start(0) if x0 is None else x0
    engine, path = ox.OptEx(x0, rng=0, maxiter=1000, parallelism=4, **options), []
    for _ in range(rounds):
        for c in engine.ask():
            value, gradient = problem(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        path.append(np.array(engine.state.x))
    return np.array(path), engine.trace


def apart(one, other):
    (path, trace), (right, known) = one, other
    assert trace.accepted.tolist() == known.accepted.tolist()
    assert trace.window.tolist() == known.window.tolist()
    return np.abs(path - right).max() / np.abs(right).max()


def step_by_step(monkeypatch, **options):
    with monkeypatch.context() as other:
        other.setattr(NumbaBackend, "subspace_rollout", lambda *_: None)
        return run(**options)


def by_the_optimizer(monkeypatch, **options):
    with monkeypatch.context() as other:
        other.setattr(OptimizerOnBackend, "unroll", lambda *_: None)
        return run(**options)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("strategy", ["paper", "corrected", "verified", "auto"])
def test_one_call_is_the_same_as_step_by_step(strategy, optimizer, walks, monkeypatch):
    # At a noise of 1e-6 of the amplitude rounding grows by 1e3 a round at most, and these runs
    # contract: at most 3e-13 was seen.
    estimator = ox.GradientEstimator(noise=1e-6)
    options = {
        "optimizer": OPTIMIZERS[optimizer](),
        "strategy": strategy,
        "estimator": estimator,
        "backend": "numba",
    }
    whole = run(**options)
    assert walks["compiled"] >= 6
    assert not walks["plain"]
    assert apart(whole, step_by_step(monkeypatch, **options)) < 1e-11
    assert walks["plain"] >= 6
    count = dict(walks)
    assert apart(whole, by_the_optimizer(monkeypatch, **options)) < 1e-11
    assert walks == count


@pytest.mark.slow
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_one_call_with_every_kernel_and_mean(kernel, mean, walks, monkeypatch):
    for optimizer in OPTIMIZERS.values():
        for strategy in ("paper", "auto"):
            estimator = ox.GradientEstimator(kernel=kernel, mean=mean, noise=1e-6)
            options = {
                "optimizer": optimizer(),
                "strategy": strategy,
                "estimator": estimator,
                "backend": "numba",
            }
            assert apart(run(**options), step_by_step(monkeypatch, **options)) < 1e-9
    assert walks["compiled"] >= 64


def test_windows_under_noise_are_as_step_by_step(walks, monkeypatch):
    def noisy():
        rng = np.random.default_rng(0)
        return lambda x: (QUADRATIC(x)[0], QUADRATIC(x)[1] + 0.03 * rng.standard_normal(len(x)))

    options = {"optimizer": ox.SGD(0.1), "strategy": "auto", "backend": "numba", "rounds": 24}
    whole = run(problem=noisy(), **options)
    assert "noisy gradients" in whole[1].note
    assert whole[1].accepted.max() > 1
    assert apart(whole, step_by_step(monkeypatch, problem=noisy(), **options)) < 1e-9
    assert walks["compiled"]


def test_a_walk_ends_where_numbers_do(walks, monkeypatch):
    options = {
        "optimizer": ox.SGD(0.3),
        "strategy": "verified",
        "estimator": ox.GradientEstimator(noise=1e-6),
        "backend": "numba",
    }
    engine, path = ox.OptEx(QUADRATIC.start(0), parallelism=4, rng=0, **options), []
    for _ in range(5):
        for c in engine.ask():
            engine.tell(c.id, gradient=QUADRATIC(c.x)[1], value=0.0)
    # From here on with a rate of 1e60: every step multiplies the distance by about so much, through
    # the curvature of the linear mean.
    view = engine.machine.surrogate.view()
    view.rollout(1)  # a basis at theta_t
    monkeypatch.setattr(view.space, "_small", bind_optimizer(ox.SGD(1e60)))
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(NumbaBackend, "subspace_rollout", lambda *_: None)
        rollout = view.rollout(20, view.x, view.state)
        taken = [rollout.point]
        assert rollout.compiled is compiled
        with np.errstate(all="ignore"):
            while rollout.step():
                taken.append(rollout.point)
        path.append(np.array([p.c for p in taken]))
    assert path[0].shape == path[1].shape
    assert 2 < len(path[0]) < 20
    assert (np.abs(path[0] - path[1]).max(1) <= 1e-9 * np.abs(path[1]).max(1)).all()


def test_a_kernel_without_lines_goes_step_by_step(walks):
    class Own(type(KERNELS["matern52"]())):
        __slots__ = ()

        def complement(self, s):
            return np.array([-np.expm1(-0.5 * t) for t in s.ravel()]).reshape(s.shape)

    run(
        optimizer=ox.SGD(0.3),
        strategy="paper",
        backend="numba",
        estimator=ox.GradientEstimator(kernel=Own(), noise=1e-6),
    )
    assert walks["plain"]
    assert not walks["compiled"]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_unrolled_steps_are_the_optimizers_own(optimizer):
    rng, stepper = np.random.default_rng(0), bind_optimizer(OPTIMIZERS[optimizer]())
    x = rng.standard_normal(7)
    state = stepper.init(x)
    for _ in range(4):  # not from the beginning
        x, state = stepper.step(x, rng.standard_normal(7), state, value=1.0)
    ahead = stepper.unroll(state, 6)
    y, slots, rule = x, ahead.slots, ahead.rule(np)
    for j, scalars in enumerate(ahead.scalars, 1):
        g = rng.standard_normal(7)
        x, state = stepper.step(x, g, state, trusted=False)
        y, *slots = rule(y, g, *slots, *scalars)
        assert np.array_equal(x, y)
        assert repr(ahead.state_after(j, tuple(slots))) == repr(state)


@pytest.mark.parametrize(("base", "settings"), [(ox.WeightDecay, (0.01,)), (ox.BestSoFar, ())])
def test_a_step_of_somebodys_own_is_not_unrolled(base, settings):
    class Own(base):
        def step(self, x, g, state, **keywords):
            return base.step(self, x, 2.0 * g, state, **keywords)

    for kind, whole in ((base, True), (Own, False)):
        stepper = bind_optimizer(kind(ox.SGD(0.1), *settings))
        assert (stepper.unroll(stepper.init(np.ones(3)), 2) is not None) is whole


def test_a_rule_that_keeps_another_number_of_vectors_has_no_walk():
    """Compiled code checks no bounds: a third vector would be written beyond the second."""
    formula = traced_kernel(KERNELS["rbf"](), complement=True)
    given = (formula.lines, formula.result, True)
    assert (
        NumbaBackend().subspace_rollout(
            *given, lambda xp: lambda x, g, v, rate: (x - rate * g, v), 1, 1
        )
        is not None
    )
    assert (
        NumbaBackend().subspace_rollout(
            *given, lambda xp: lambda x, g, v, rate: (x - rate * g, v, g), 1, 1
        )
        is None
    )
