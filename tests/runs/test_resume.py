"""Continued runs have the bits of uninterrupted ones, and what does not belong is refused."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
from saved_runs import X0, assert_same, exact, noisy
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.errors import CheckpointError


@pytest.mark.parametrize(
    ("strategy", "first"), list(zip(STRATEGY_NAMES, itertools.cycle([1, 2, 5])))
)
def test_a_longer_run_in_two_parts_is_the_longer_run(tmp_path, strategy, first):
    seen = collections.Counter()

    def counting(x, *, seed):
        seen[x.tobytes(), seed] += 1
        return noisy(x, seed=seed)

    run = dict(optimizer="adam", strategy=strategy, parallelism=3, rng=4)
    whole = ox.minimize(noisy, X0, maxiter=9, **run)
    reported = []
    part = ox.minimize(
        counting,
        X0,
        maxiter=first,
        checkpoint=tmp_path / "run",
        callback=lambda r: reported.append(r.nit),
        **run,
    )
    assert part.nit == first
    result = ox.minimize(
        counting,
        X0,
        maxiter=9,
        checkpoint=tmp_path / "run",
        resume=True,
        callback=lambda r: reported.append(r.nit),
        **run | {"rng": None},
    )
    assert_same(whole, result)
    assert max(seen.values()) == 1
    assert result.njev == seen.total()
    assert reported == list(range(1, 10))


def test_resuming_with_a_maxiter_that_is_reached_evaluates_the_closing_point_only(tmp_path):
    def dies(x):
        if len(calls) >= 14:
            raise SystemExit("killed")
        calls.append(1)
        return exact(x)

    calls = []
    run = dict(
        optimizer="adam", strategy="paper", parallelism=3, rng=4, checkpoint=tmp_path / "run"
    )
    with pytest.raises(SystemExit):
        ox.minimize(dies, X0, maxiter=50, **run)
    result = ox.minimize(exact, X0, maxiter=2, resume=True, **run)
    assert result.status is ox.Status.MAXITER
    assert result.fun == exact(result.x)[0]
    assert result.nit == 5


@pytest.mark.parametrize(
    ("strategy", "kind"),
    list(zip(STRATEGY_NAMES, itertools.cycle([RuntimeError, KeyboardInterrupt, SystemExit]))),
)
def test_a_run_that_was_ended_from_outside_goes_on_as_if_it_had_not(tmp_path, strategy, kind):
    run = dict(optimizer="adam", strategy=strategy, parallelism=3, maxiter=6, rng=4)
    whole = ox.minimize(exact, X0, **run)
    for at in range(0, whole.njev, 3 if kind is RuntimeError else 5):
        path, calls, down = tmp_path / f"{kind.__name__}{at}", [], [True]

        def fails(x):
            if down[0] and len(calls) == at:  # noqa: B023  used up within the iteration
                down[0] = kind is RuntimeError and False  # noqa: B023
                raise kind("cable")
            calls.append(1)  # noqa: B023
            return exact(x)

        try:
            first = ox.minimize(fails, X0, checkpoint=path, **run)
        except (RuntimeError, SystemExit) as error:
            first = error.partial_result
        result = ox.minimize(fails, X0, checkpoint=path, resume=True, **run)
        if (
            kind is RuntimeError
            and strategy != "target"
            and first.failures
            and first.failures[0].slot
        ):
            continue  # a proxy that failed is dropped, and a dropped one changes the run
        np.testing.assert_array_equal(result.x, whole.x)
        np.testing.assert_array_equal(result.history.value, whole.history.value)
        np.testing.assert_array_equal(result.history.evaluations, whole.history.evaluations)
        assert result.stop == whole.stop
        # a call that was interrupted counts
        assert result.njev == len(calls) + len(result.failures) + (kind is not RuntimeError)


@pytest.mark.parametrize("every", [1, 100])
def test_attempts_are_counted_on(tmp_path, every):
    seen, down = [], [True]

    def flaky(x, *, ctx):
        if ctx.id == 4:
            seen.append(ctx.attempt)
            if ctx.attempt == 2 and down[0]:
                down[0] = False
                raise SystemExit("killed")
            if ctx.attempt < 3:
                raise RuntimeError("licence")
        return exact(x)

    run = dict(optimizer="adam", strategy="paper", parallelism=3, rng=4, maxiter=4)
    kept = dict(
        on_error="retry", max_retries=3, checkpoint=tmp_path / "run", checkpoint_every=every
    )
    with pytest.raises(SystemExit):
        ox.minimize(flaky, X0, **run, **kept)
    result = ox.minimize(flaky, X0, resume=True, **run, **kept)
    assert seen == [0, 1, 2, 2, 3]
    assert [f.attempt for f in result.failures] == [0, 1, 2]
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **run).x)


def test_the_last_failure_of_a_point_knows_its_attempt():
    def fails(x, *, ctx):
        if ctx.id == 4:
            raise RuntimeError("licence")
        return exact(x)

    result = ox.minimize(
        fails,
        X0,
        optimizer="adam",
        strategy="paper",
        parallelism=3,
        rng=4,
        maxiter=4,
        on_error="retry",
        max_retries=2,
    )
    assert [f.attempt for f in result.failures] == [0, 1, 2]


def _no_space(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("saved", [True, False])
def test_another_x0_than_the_runs_own_is_told_and_not_used(tmp_path, caplog, monkeypatch, saved):
    run = dict(optimizer="adam", parallelism=3, rng=4, checkpoint=tmp_path / "run")
    whole = ox.minimize(exact, X0, optimizer="adam", parallelism=3, rng=4, maxiter=6)
    if saved:
        ox.minimize(exact, X0, maxiter=3, **run)
    else:  # ended before the first save

        def dies(x, *, ctx):
            if ctx.iteration:
                raise SystemExit("killed")
            return exact(x)

        with monkeypatch.context() as full:
            full.setattr(checkpoint_file, "write_checkpoint", _no_space)
            with pytest.raises(SystemExit):
                ox.minimize(dies, X0, checkpoint_every=100, **run)
        assert not (tmp_path / "run").exists()
    result = ox.minimize(exact, X0, maxiter=4, resume=True, **run)
    assert "x0" not in caplog.text
    for maxiter in (5, 6):  # also what has been continued once knows where it began
        caplog.clear()
        result = ox.minimize(exact, X0 + 1, maxiter=maxiter, resume=True, **run)
        assert caplog.text.count("begun at another x0 than the one that is given now") == 1
    np.testing.assert_array_equal(result.x, whole.x)


def test_a_finished_run_is_only_read(tmp_path):
    run = dict(optimizer=ox.SGD(0.2), gtol=1e-3, rng=0, checkpoint=tmp_path / "run")
    first = ox.minimize(lambda x: (x @ x, 2 * x), X0, **run)
    assert first.success

    def never(x):
        raise AssertionError("called")

    assert_same(first, ox.minimize(never, X0, resume=True, **run))


def test_resuming_without_a_file_starts_anew(tmp_path):
    result = ox.minimize(exact, X0, maxiter=3, checkpoint=tmp_path / "run", resume=True, rng=0)
    assert result.nit == 3
    assert (tmp_path / "run").exists()


def test_a_generator_that_starts_at_the_same_place_continues_the_run(tmp_path):
    for maxiter in (3, 5):
        result = ox.minimize(
            exact,
            X0,
            maxiter=maxiter,
            checkpoint=tmp_path / "run",
            resume=True,
            rng=np.random.default_rng(8),
        )
    assert result.nit == 5


def test_a_larger_budget_of_evaluations_goes_on(tmp_path):
    run = dict(
        optimizer="adam", parallelism=3, strategy="target", rng=0, checkpoint=tmp_path / "run"
    )
    assert ox.minimize(exact, X0, max_evals=8, **run).njev == 8
    result = ox.minimize(exact, X0, max_evals=21, resume=True, **run)
    assert (result.njev, result.stop) == (21, {"max_evals": 21})
    assert result.fun == exact(result.x)[0]


OTHERS = [
    ({"x0": X0[:3], "bounds": [(-3, 3)] * 3}, "its d is 4, here it is 3"),
    ({"x0": X0.astype(np.float32)}, "its dtype is"),
    ({"parallelism": 4}, "its parallelism is 3, here it is 4"),
    ({"optimizer": "sgd"}, "no default learning rate"),
    ({"optimizer": ox.SGD(0.1)}, r"its optimizer is adam\(.*\), here it is sgd\(learning_rate=0.1"),
    (
        {"optimizer": ox.Adam(0.5)},
        r"is adam\(learning_rate=0.001\), here it is adam\(learning_rate=0.5\)",
    ),
    ({"strategy": "auto"}, "its strategy is"),
    (
        {"strategy": ox.strategies.Paper(selection="value")},
        r"here it is paper\(selection='value'\)",
    ),
    ({"estimator": ox.GradientEstimator(kernel="rbf")}, "its estimator is .*'matern52'.*'rbf'"),
    ({"bounds": None}, r"its bounds is \[-3., -3., -3., -3.\] to \[3.*\], here it is None"),
    ({"bounds": [(-3, 4)] * 4}, r"to \[3., 3., 3., 3.\], here it is .* to \[4., 4., 4., 4.\]"),
    ({"x_scale": 2.0}, r"its x_scale is None, here it is \[2., 2., 2., 2.\]"),
    ({"tag": None}, "its tag is 'mine', here it is None"),
    ({"tag": "yours"}, "its tag is 'mine', here it is 'yours'"),
    ({"rng": 5}, "was made with rng=4, here it is 5"),
    ({"backend": "numba"}, "its backend is"),
    ({"resume": False}, "exists already; pass resume=True"),
]


@pytest.mark.parametrize(
    ("other", "says"), OTHERS, ids=lambda p: ",".join(p) if isinstance(p, dict) else ""
)
def test_a_run_of_other_settings_is_refused_and_its_file_untouched(saved_run, other, says):
    before = saved_run["checkpoint"].read_bytes()
    arguments = {"x0": X0, "resume": True, "maxiter": 9} | saved_run | other

    def never(x):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=says):
        ox.minimize(never, **arguments)
    assert saved_run["checkpoint"].read_bytes() == before
    assert ox.minimize(exact, X0, resume=True, maxiter=4, **saved_run).nit == 4


def test_auto_goes_on_with_the_backend_of_the_run(tmp_path):
    """From which size on it takes which has changed between versions; bits of one run are those of
    one backend.
    """
    options = {"optimizer": ox.SGD(0.1), "parallelism": 3, "rng": 0}

    def fun(x):
        return 0.5 * float(x @ x), x

    x0, path = np.linspace(0.0, 1.0, 10_001), tmp_path / "run.npz"
    assert ox.OptEx(x0, **options).backend.name == "numba"
    ox.minimize(fun, x0, maxiter=2, checkpoint=path, backend="numpy", **options)
    second = ox.minimize(fun, x0, maxiter=4, checkpoint=path, resume=True, **options)
    assert np.array_equal(second.x, ox.minimize(fun, x0, maxiter=4, backend="numpy", **options).x)
    with pytest.raises(CheckpointError, match="its backend is"):
        ox.minimize(fun, x0, maxiter=5, checkpoint=path, resume=True, backend="numba", **options)
