"""Steps on coefficients against steps on arrays: whole runs side by side, what falls back, files,
and the numerics of the Gram matrix.
"""

from __future__ import annotations

import numpy as np
import pytest
from combinations import covering_pairs

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.model.history import History
from optex_core.model.subspace import SubspaceBasis, pairwise_products
from optex_core.optimizers.schedules import Step
from optex_core.problems.quadratic import Quadratic
from optex_core.problems.rosenbrock import Rosenbrock
from optex_core.strategies._subspace import space as affine
from optex_core.testing.reference.optex import ReferenceOptEx

QUADRATIC = Quadratic(d=40, condition=100.0, rotated=True)
ROSENBROCK = Rosenbrock(d=30)


@pytest.fixture(autouse=True)
def small_problems(monkeypatch):
    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 1)


def on_arrays(monkeypatch):
    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 10**9)


def run(problem, x0, rounds, *, lose=lambda t, i: False, **options):
    """The engine, its iterates and the points it asked for."""
    engine, path, asked = ox.OptEx(x0, rng=0, maxiter=10_000, **options), [], []
    for _ in range(rounds):
        asked.append([np.array(c.x) for c in engine.ask()])
        for c in engine.ask():
            value, gradient = problem(c.x)
            if lose(c.iteration, c.slot):
                engine.tell(c.id, error=RuntimeError("lost"))
            else:
                engine.tell(c.id, gradient=gradient, value=value)
        path.append(np.array(engine.state.x))
    return engine, path, asked


def compared(monkeypatch, problem, x0, rounds, **options):
    """Largest difference of iterates and points between coefficients and arrays, relative to their
    size.
    """
    engine, path, asked = run(problem, x0, rounds, **options)
    with monkeypatch.context() as other:
        on_arrays(other)
        plain, right, wanted = run(problem, x0, rounds, **options)
    assert engine.machine.surrogate.tracker is not None
    assert plain.machine.surrogate.tracker is None
    assert [len(points) for points in asked] == [len(points) for points in wanted]
    assert np.array_equal(engine.trace.accepted, plain.trace.accepted)
    assert np.allclose(
        engine.trace.prediction_error,
        plain.trace.prediction_error,
        rtol=1e-6,
        atol=1e-6,
        equal_nan=True,
    )
    for name in ("D", "E", "M", "S"):
        ours, theirs = (
            getattr(engine.machine.surrogate.history, name),
            getattr(plain.machine.surrogate.history, name),
        )
        assert np.allclose(ours, theirs, rtol=1e-7, atol=1e-9 * np.abs(theirs).max())
    pairs = [
        *zip(path, right, strict=True),
        *(
            (a, b)
            for one, other in zip(asked, wanted, strict=True)
            for a, b in zip(one, other, strict=True)
        ),
    ]
    return max(float(np.abs(a - b).max() / (1.0 + np.abs(b).max())) for a, b in pairs), engine


PREDICTING = ["paper", "corrected", "verified", "auto"]
OPTIMIZERS = {
    "sgd": lambda: ox.SGD(0.5),
    "momentum": lambda: ox.SGD(0.1, momentum=0.9),
    "nesterov": lambda: ox.SGD(0.1, momentum=0.9, nesterov=True),
    "scheduled": lambda: ox.SGD(Step(0.3, 5, 0.5), momentum=0.5),
    "decoupled decay": lambda: ox.WeightDecay(ox.SGD(0.1, momentum=0.9), 0.01),
    "best so far": lambda: ox.BestSoFar(ox.SGD(0.2, momentum=0.5)),
}

#: Both paths compute one estimate in two orders of operations; its rounding is 1e-16 / rho (rho:
#: noise relative to a contrast, here 1e-4 or more), and a step that contracts does not let it grow
#: over ten rounds. Measured: at most 9e-13.
TOLERANCE = 1e-10


@pytest.mark.parametrize(
    ("strategy", "optimizer", "mean"),
    covering_pairs(PREDICTING, OPTIMIZERS, ["zero", "constant", "linear"]),
)
def test_whole_runs_are_those_on_arrays(strategy, optimizer, mean, monkeypatch):
    estimator = ox.GradientEstimator(
        mean=mean, history=12, tune="fixed", length_scale=3.0, noise=1e-4
    )
    options = {
        "optimizer": OPTIMIZERS[optimizer](),
        "parallelism": 4,
        "strategy": strategy,
        "estimator": estimator,
    }
    assert compared(monkeypatch, QUADRATIC, QUADRATIC.start(0), 8, **options)[0] < TOLERANCE


@pytest.mark.parametrize("strategy", PREDICTING)
@pytest.mark.parametrize("dims", [None, 7])
def test_the_likelihood_with_its_curvature(strategy, dims, monkeypatch):
    # A noise of 1e-6 of the amplitude is the smallest here; the curvature of the linear mean is
    # tuned.
    estimator = ox.GradientEstimator(mean="linear", history=12, noise=1e-6, kernel_dims=dims)
    options = {
        "optimizer": ox.SGD(0.3, momentum=0.5),
        "parallelism": 4,
        "strategy": strategy,
        "estimator": estimator,
    }
    worst, engine = compared(monkeypatch, QUADRATIC, QUADRATIC.start(0), 7, **options)
    assert worst < 1e-8
    assert np.nanmax(engine.trace.curvature) > 0.0


def test_a_point_that_is_asked_twice_is_at_no_distance(monkeypatch):
    # `auto` asks theta_t twice to tell noise; the likelihood's lengths are multiples of the median
    # of the positive distances.
    estimator = ox.GradientEstimator(mean="linear", history=16, noise=1e-4)
    options = {
        "optimizer": OPTIMIZERS["momentum"](),
        "parallelism": 4,
        "strategy": "auto",
        "estimator": estimator,
    }
    h = np.linspace(0.2, 2.0, 60)
    curved = lambda x: (float(0.5 * h @ x**2 + np.cos(x).sum()), h * x - np.sin(x))  # noqa: E731
    worst, engine = compared(
        monkeypatch, curved, np.random.default_rng(2).standard_normal(60), 6, **options
    )
    n = engine.machine.surrogate.history.n
    repeated = sum(
        np.array_equal(a, b)
        for i, a in enumerate(engine.machine.surrogate.history.X[:n])
        for b in engine.machine.surrogate.history.X[:i]
    )
    assert repeated
    assert (
        engine.machine.surrogate.history.D[:n, :n][np.tri(n, k=-1, dtype=bool)] == 0.0
    ).sum() == repeated
    assert worst < 1e-8


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("strategy", ["paper", "verified"])
def test_float32(backend, strategy, monkeypatch):
    # Arrays are rounded to float32 at every predicted step, coefficients only where a point is
    # made: 6e-8 a step, times the 40 steps of a window.
    estimator = ox.GradientEstimator(history=12, tune="fixed", length_scale=3.0, noise=1e-2)
    x0 = QUADRATIC.start(0).astype(np.float32)
    options = {
        "optimizer": ox.SGD(0.1, momentum=0.5),
        "parallelism": 4,
        "strategy": strategy,
        "estimator": estimator,
        "backend": backend,
    }

    def problem(x):
        value, gradient = QUADRATIC(x.astype(np.float64))
        return value, gradient.astype(np.float32)

    engine, path, _ = run(problem, x0, 8, **options)
    with monkeypatch.context() as other:
        on_arrays(other)
        _, right, _ = run(problem, x0, 8, **options)
    assert engine.machine.surrogate.tracker is not None
    assert all(a.dtype == np.float32 for a in path)
    assert max(np.abs(a - b).max() for a, b in zip(path, right, strict=True)) < 1e-5


def test_numba_gives_the_bits_of_any_thread_count():
    numba = pytest.importorskip("numba")
    options = {
        "optimizer": ox.SGD(0.1, momentum=0.9),
        "parallelism": 4,
        "strategy": "verified",
        "backend": "numba",
    }
    runs = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        try:
            runs.append(run(QUADRATIC, QUADRATIC.start(0), 6, **options)[1])
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("strategy", ["paper", "corrected", "verified"])
def test_the_slow_twin(strategy):
    mean = "linear" if strategy == "verified" else "constant"
    estimator = ox.GradientEstimator(
        mean=mean, history=7, tune="fixed", length_scale=3.0, noise=1e-5
    )
    small, optimizer = Quadratic(d=4, condition=20.0, rotated=True), ox.SGD(0.1, momentum=0.9)
    engine, path, _ = run(
        small,
        small.start(1),
        8,
        optimizer=optimizer,
        parallelism=3,
        strategy=strategy,
        estimator=estimator,
    )
    assert engine.machine.surrogate.tracker is not None
    twin = ReferenceOptEx(small.start(1), optimizer, 3, estimator)
    for x in path:
        getattr(twin, strategy)(lambda z: small(z)[1])
        assert np.abs(x - twin.x).max() < 1e-8


@pytest.mark.parametrize("selection", ["last", "value", "gradient_norm"])
def test_lost_points_and_selections(selection, monkeypatch):
    options = {
        "optimizer": ox.SGD(2e-4, momentum=0.9),
        "parallelism": 4,
        "strategy": ox.strategies.Paper(selection=selection),
    }
    options["estimator"] = ox.GradientEstimator(
        history=9, tune="fixed", length_scale=5.0, noise=1e-4
    )
    lost = {(2, 3), (3, 1), (5, 2), (6, 1), (6, 2), (6, 3)}
    assert (
        compared(
            monkeypatch, ROSENBROCK, ROSENBROCK.start(0), 9, lose=lambda *at: at in lost, **options
        )[0]
        < TOLERANCE
    )


@pytest.mark.parametrize("strategy", ["paper", "verified", "auto"])
def test_observations_in_the_middle_of_a_run(strategy, monkeypatch):
    def warmed(rounds):
        engine = ox.OptEx(
            QUADRATIC.start(0),
            optimizer=ox.SGD(0.1, momentum=0.5),
            parallelism=4,
            strategy=strategy,
            estimator=ox.GradientEstimator(history=10, tune="fixed", length_scale=3.0, noise=1e-4),
            rng=0,
            maxiter=100,
        )
        X = np.random.default_rng(0).standard_normal((25, 40))
        for t in range(rounds):
            if t in (0, 3, 5):
                points = X[: 3 + 5 * t]
                engine.add_observations(points, np.array([QUADRATIC(x)[1] for x in points]))
            for c in engine.ask():
                value, gradient = QUADRATIC(c.x)
                engine.tell(c.id, gradient=gradient, value=value)
                if t == 4 and c.slot == 0:  # while the round is open
                    engine.add_observations(X[:2], np.array([QUADRATIC(x)[1] for x in X[:2]]))
        return engine

    ours = warmed(8)
    with monkeypatch.context() as other:
        on_arrays(other)
        plain = warmed(8)
    assert ours.machine.surrogate.tracker is not None
    assert np.allclose(ours.state.x, plain.state.x, rtol=0.0, atol=1e-10)
    assert ours.machine.surrogate.history.total == plain.machine.surrogate.history.total


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("bounds: a projection is not affine", {"bounds": [(-9.0, 9.0)] * 40}),
        ("clipping is not affine", {"optimizer": ox.ClipByNorm(ox.SGD(0.1), 0.5)}),
        ("Adam is not affine", {"optimizer": ox.Adam(0.1)}),
        ("a scale of the parameters", {"x_scale": np.linspace(1.0, 2.0, 40)}),
        ("a history that one round can empty", {"estimator": ox.GradientEstimator(history=3)}),
        ("no history", {"strategy": "sequential"}),
        ("one evaluation a round", {"parallelism": 1}),
    ],
)
def test_what_has_no_coefficients_runs_on_arrays_with_the_same_bits(what, options, monkeypatch):
    given = {
        "optimizer": ox.SGD(0.1, momentum=0.5),
        "parallelism": 4,
        "strategy": "verified",
        **options,
    }
    engine, path, _ = run(QUADRATIC, QUADRATIC.start(0), 5, **given)
    assert engine.machine.surrogate.tracker is None, what
    on_arrays(monkeypatch)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(path, run(QUADRATIC, QUADRATIC.start(0), 5, **given)[1], strict=True)
    )


@pytest.mark.parametrize("strategy", PREDICTING)
def test_with_only_the_first_slot_left_it_is_one_plain_step(strategy):
    optimizer = ox.SGD(0.1, momentum=0.9)
    _, path, _ = run(
        QUADRATIC,
        QUADRATIC.start(0),
        5,
        lose=lambda t, i: i > 0,
        optimizer=optimizer,
        parallelism=4,
        strategy=strategy,
    )
    x, state = QUADRATIC.start(0), optimizer.init(QUADRATIC.start(0))
    for right in path:
        x, state = optimizer.step(x, QUADRATIC(x)[1], state)
        assert np.array_equal(x, right)


@pytest.mark.parametrize(
    ("strategy", "optimizer", "told"), covering_pairs(PREDICTING, OPTIMIZERS, [0, 2])
)
def test_a_saved_run_continues_with_the_same_bits(strategy, optimizer, told, tmp_path):
    make = OPTIMIZERS[optimizer]
    options = {
        "optimizer": make(),
        "parallelism": 4,
        "strategy": strategy,
        "rng": 0,
        "maxiter": 100,
    }

    def rounds(engine, count):
        for _ in range(count):
            for c in engine.ask():
                value, gradient = QUADRATIC(c.x)
                engine.tell(c.id, gradient=gradient, value=value)

    whole, engine = ox.OptEx(QUADRATIC.start(0), **options), ox.OptEx(QUADRATIC.start(0), **options)
    rounds(whole, 8)
    rounds(engine, 4)
    for c in engine.ask()[:told]:
        value, gradient = QUADRATIC(c.x)
        engine.tell(c.id, gradient=gradient, value=value)
    engine.save(tmp_path / "run")
    again = ox.OptEx.load(tmp_path / "run")
    again.save(tmp_path / "again")  # a saved run that was not touched can be saved again
    again = ox.OptEx.load(tmp_path / "again")
    rounds(again, 4)
    assert again.machine.surrogate.tracker is not None
    assert np.array_equal(again.state.x, whole.state.x)
    assert np.array_equal(
        again.machine.surrogate.tracker.basis.K, whole.machine.surrogate.tracker.basis.K
    )


def test_a_gradient_whose_square_overflows_is_survived(monkeypatch):
    def cliff(x):
        value, gradient = QUADRATIC(x)
        return value, gradient * (1e200 if len(seen) == 10 else 1.0)

    seen = []
    with np.errstate(all="ignore"):
        for coefficients in (True, False):
            if not coefficients:
                on_arrays(monkeypatch)
            engine = ox.OptEx(
                QUADRATIC.start(0),
                optimizer=ox.SGD(0.1),
                parallelism=4,
                strategy="verified",
                rng=0,
                maxiter=40,
            )
            seen.clear()
            while not engine.stop():
                for c in engine.ask():
                    seen.append(c.x)
                    value, gradient = cliff(c.x)
                    engine.tell(c.id, gradient=gradient, value=value)
            assert engine.stop() == {"maxiter": 40}
            assert np.isfinite(engine.state.x).all()


def test_rows_too_long_for_their_squares_bar_coefficients_until_they_are_gone():
    rng = np.random.default_rng(0)
    history = History(5, 30, np.float64, get_backend("numpy"))
    span, x = SubspaceBasis(history), rng.standard_normal(30)
    with np.errstate(all="ignore"):
        for scale in (1.0, 1e200):
            history.append(x, scale * rng.standard_normal(30))
        assert span.rebase(x, []) is None
        for _ in range(5):
            history.append(x, rng.standard_normal(30))
    assert span.rebase(x, []) is not None
    assert np.isfinite(span.K).all()


# -- the Gram matrix -------------------------------------------------------------------------------


def basis_of(span):
    """The basis vectors themselves, in float64, shape (m, d)."""
    h = span.history
    order = h.chronological_order()
    X, G = h.X[order].astype(np.float64), h.G[order].astype(np.float64)
    return np.concatenate(
        [
            [X[-1], G[-1], span.x - h.X[span.anchor], *span.vectors],
            np.diff(X, axis=0),
            np.diff(G, axis=0),
        ]
    )


@pytest.mark.parametrize("strategy", ["paper", "verified"])
def test_the_gram_matrix_is_that_of_the_vectors(strategy):
    # With a noise of 1e-4 the weights are moderate: rows are what their coefficients say to the
    # last digits.
    options = {"optimizer": ox.SGD(0.1, momentum=0.9), "parallelism": 4, "strategy": strategy}
    options["estimator"] = ox.GradientEstimator(tune="fixed", length_scale=3.0, noise=1e-4)
    engine, _, _ = run(QUADRATIC, QUADRATIC.start(0), 9, **options)
    engine.ask()
    span = engine.machine.surrogate.tracker.basis
    B = basis_of(span)
    sizes = np.linalg.norm(B, axis=1)
    assert np.abs(span.K - B @ B.T).max() <= 1e-12 * np.outer(sizes, sizes).max()
    assert (np.abs(span.K - B @ B.T) <= 1e-9 * np.outer(sizes, sizes)).all()


def test_differences_keep_their_digits_far_from_the_origin():
    # Offset 1e3, steps of 1e-4. Raw products centred afterwards lose everything.
    rng = np.random.default_rng(0)
    history = History(12, 50, np.float64, get_backend("numpy"))
    x = 1e3 + rng.standard_normal(50)
    for _ in range(12):
        x = x + 1e-4 * rng.standard_normal(50)
        history.append(x, 1e-4 * rng.standard_normal(50) + 1.0)
    span = SubspaceBasis(history)
    assert span.rebase(x, []) is not None
    X = history.X[history.chronological_order()].astype(np.longdouble)
    right = ((X[:, None] - X[None]) ** 2).sum(-1).astype(np.float64)
    relative = lambda D: np.abs(D - right)[right > 0].max() / right[right > 0].min()  # noqa: E731
    ours = pairwise_products(span.K[span.thetas, span.thetas])
    raw = history.X[history.chronological_order()] @ history.X[history.chronological_order()].T
    centred = raw.diagonal()[:, None] + raw.diagonal()[None] - 2 * raw
    assert relative(ours) < 1e-13
    assert relative(centred) > 1e-2


def test_a_point_is_refused_after_its_rows_have_left():
    class Late(ox.strategies.Paper):
        def advance(self, view, strategy_state, proposal, observations):
            if len(proposal.path) > 1:
                view.space.materialize([], [proposal.path.states[1]])
            return super().advance(view, strategy_state, proposal, observations)

    engine = ox.OptEx(
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.1, momentum=0.9),
        parallelism=4,
        strategy=Late(),
        estimator=ox.GradientEstimator(history=6),
        rng=0,
        maxiter=50,
    )

    def rounds():
        for _ in range(6):
            for c in engine.ask():
                engine.tell(c.id, gradient=QUADRATIC(c.x)[1], value=0.0)

    with pytest.raises(TypeError, match="have left the history"):
        rounds()
