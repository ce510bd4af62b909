"""Saved runs: the continued run has the bits of the uninterrupted one, and what does not belong is
refused with the file left as it is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import os

import numpy as np
import pytest
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.engine.settings_spec import to_spec
from optex_core.errors import CheckpointError

X0 = np.array([-1.2, 1.0, 0.7, 2.0])


def fun(x, *, seed=0):
    a, b = 1.0 - x[:-1], x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -2.0 * a - 40.0 * x[:-1] * b
    gradient[1:] += 20.0 * b
    return float(a @ a + 10.0 * b @ b), gradient


def noisy(x, *, seed):
    value, gradient = fun(x)
    return value, gradient + 0.5 * np.random.default_rng(seed).standard_normal(len(x))


def exact(x):
    return fun(x)


@pytest.fixture
def save_and_load(tmp_path, monkeypatch):
    """Saves an engine and gives the loaded one; without waiting for the disk, which takes longer
    than all the rest.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def swap(engine):
        engine.save(tmp_path / "run.npz")
        return ox.OptEx.load(tmp_path / "run.npz")

    return swap


def assert_same(one, two):
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.jac, two.jac)
    np.testing.assert_array_equal(one.best_x, two.best_x)
    mine, theirs = one.history.to_arrays(), two.history.to_arrays()
    for name in set(mine) - {"seconds", "overhead", "slowest"}:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    for name in (
        "nit",
        "nsteps",
        "nfev",
        "njev",
        "seed",
        "stop",
        "status",
        "deterministic",
        "message",
    ):
        assert getattr(one, name) == getattr(two, name), name
    # nan is where no value was told
    np.testing.assert_array_equal([one.fun, one.best_fun], [two.fun, two.best_fun])
    assert [(f.id, f.message, f.traceback) for f in one.failures] == [
        (f.id, f.message, f.traceback) for f in two.failures
    ]


def settings(strategy):
    return dict(
        optimizer=ox.SGD(ox.schedules.ReduceOnPlateau(ox.schedules.Cosine(4e-3, 40), patience=1), momentum=0.5) if strategy != "paper" else "adam",
        strategy=strategy, parallelism=3, estimator=ox.GradientEstimator(history=6, kernel_dims=3),
        bounds=[(-2.0, 1.9)] * 4, x_scale=[1.0, 2.0, 1.0, 0.5], rng=11, tag="bits",
    )  # fmt: skip


def drive(engine, fails=(), saver=None):
    """The result of `drive_engine`."""
    return drive_engine(engine, fails, saver).result()


def drive_engine(engine, fails=(), saver=None):
    """Run to the end; `saver` may swap the engine before every ask and before and after every tell."""
    saver = saver or (lambda e: e)
    while not engine.stop():
        engine = saver(engine)
        ids = [c.id for c in engine.ask()]
        for id_ in ids[1:] + ids[:1]:
            engine = saver(engine)
            (c,) = [c for c in engine.ask() if c.id == id_]
            if (c.iteration, c.slot) in fails:
                engine.tell(id_, error=RuntimeError("flaky"))
            else:
                value, gradient = noisy(c.x, seed=c.seed)
                engine.tell(id_, gradient=gradient, value=value)
    return saver(engine)


# -- bits ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:x0 lies outside:RuntimeWarning")
@pytest.mark.parametrize("end", [{"maxiter": 7}, {"max_evals": 16}], ids=["maxiter", "max_evals"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_saved_and_loaded_before_every_ask_and_tell(save_and_load, strategy, end):
    fails = {(3, 1), (4, 2)} if strategy != "target" else ()
    plain = drive(ox.OptEx(X0, **settings(strategy), **end), fails)
    assert_same(plain, drive(ox.OptEx(X0, **settings(strategy), **end), fails, save_and_load))


@pytest.mark.filterwarnings("ignore:x0 lies outside:RuntimeWarning")
@pytest.mark.parametrize("name", ["adadelta", "lion", "nadam", "radam"])
def test_every_kind_of_optimizer_state_survives(save_and_load, name):
    options = settings("verified") | {"optimizer": name, "maxiter": 5}
    assert_same(drive(ox.OptEx(X0, **options)), drive(ox.OptEx(X0, **options), (), save_and_load))


@pytest.mark.parametrize(
    "estimator",
    [{"tune": "median"}, {"tune": "fixed"}, {"every": 3}, {"kernel": "rbf", "mean": "linear"}],
    ids=str,
)
def test_every_kind_of_fit_survives(save_and_load, estimator):
    options = settings("paper") | {
        "bounds": None,
        "estimator": ox.GradientEstimator(**estimator),
        "maxiter": 8,
    }
    assert_same(drive(ox.OptEx(X0, **options)), drive(ox.OptEx(X0, **options), (), save_and_load))


def test_numbers_of_numpy_are_settings_like_any_other(save_and_load):
    engine = ox.OptEx(
        X0, optimizer=ox.SGD(np.float32(0.01)), parallelism=np.int64(3), estimator=ox.GradientEstimator(history=np.int32(9), noise=np.float64(0.0)),
        maxiter=np.int64(3), gtol=np.float32(0.5), target=-np.inf, ftol=np.inf, rng=2**100,
    )  # fmt: skip
    loaded = save_and_load(engine)
    assert loaded.settings == engine.settings
    assert_same(drive(engine), save_and_load(loaded := drive_engine(loaded)).result())
    assert loaded.stop() == {"ftol": np.inf}


def test_late_gradients_and_their_ids_survive(save_and_load):
    def run(saver):
        engine = ox.OptEx(X0, optimizer="adam", strategy="paper", parallelism=4, maxiter=9, rng=0)
        late = []
        while not engine.stop():
            engine = saver(engine)
            asked = engine.ask()
            for c in asked[:2]:
                engine = saver(engine)
                engine.tell(c.id, gradient=exact(c.x)[1], value=exact(c.x)[0])
            if len(asked) > 2 and not engine.stop():
                engine.close_round()
            engine = saver(engine)
            for c in late:
                engine.tell(c.id, gradient=exact(c.x)[1], value=exact(c.x)[0])
            late = asked[2:]
        return saver(engine)

    plain, saved = run(lambda e: e), run(save_and_load)
    assert_same(plain.result(), saved.result())
    assert plain.machine.surrogate.history.total == saved.machine.surrogate.history.total
    assert not saved.result().deterministic


def test_what_a_finished_run_did_not_wait_for_stays_tellable_after_loading(tmp_path):
    engine = ox.OptEx(X0, optimizer="adam", strategy="paper", parallelism=3, rng=0)
    for _ in range(2):
        first, *rest = engine.ask()
        for c in [*rest, first]:
            engine.tell(c.id, gradient=exact(c.x)[1], value=exact(c.x)[0])
    first, *rest = engine.ask()
    engine.abort(ox.Status.INTERRUPTED)
    engine.save(tmp_path / "run.npz")
    assert ox.OptEx.load(tmp_path / "run.npz", maxiter=0).state.njev == engine.state.njev
    engine.state.reasons = {"gtol": 1.0}  # an ending that stays
    engine.save(tmp_path / "run.npz")
    loaded = ox.OptEx.load(tmp_path / "run.npz")
    loaded.tell(rest[0].id, gradient=exact(rest[0].x)[1], value=0.0)
    assert loaded.state.njev == engine.state.njev + 1


# -- minimize --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2, 5])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
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
    # data_parallel knows one of the N seeds from the closing point of the first part; with all N it
    # reports theta again
    again = [first] if strategy == "data_parallel" else []
    assert reported == sorted([*range(1, 10), *again])


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


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
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


def test_checkpoints_are_written_every_so_many_iterations_and_at_the_end(tmp_path, monkeypatch):
    saved, write = [], checkpoint_file.write_checkpoint

    def noted(path, header, arrays):
        saved.append(header["state"]["nit"])
        write(path, header, arrays)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", noted)
    ox.minimize(exact, X0, maxiter=7, checkpoint=tmp_path / "run", checkpoint_every=3, rng=0)
    assert saved == [3, 6, 7]


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


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A saved run and the arguments that made it."""
    keywords = dict(
        optimizer="adam",
        strategy="paper",
        parallelism=3,
        rng=4,
        checkpoint=tmp_path / "run",
        tag="mine",
        bounds=[(-3, 3)] * 4,
    )
    ox.minimize(exact, X0, maxiter=3, **keywords)
    return keywords


OTHERS = [
    ({"x0": X0[:3], "bounds": [(-3, 3)] * 3}, "its d is 4, here it is 3"),
    ({"x0": X0.astype(np.float32)}, "its dtype is"),
    ({"parallelism": 4}, "its parallelism is 3, here it is 4"),
    ({"optimizer": "sgd"}, "no default learning rate"),
    ({"optimizer": ox.SGD(0.1)}, "its optimizer is"),
    ({"optimizer": ox.Adam(0.5)}, "its optimizer is"),
    ({"strategy": "auto"}, "its strategy is"),
    ({"strategy": ox.strategies.Paper(selection="value")}, "its strategy is"),
    ({"estimator": ox.GradientEstimator(kernel="rbf")}, "its estimator is"),
    ({"bounds": None}, "its bounds is"),
    ({"bounds": [(-3, 4)] * 4}, "its bounds is"),
    ({"x_scale": 2.0}, "its x_scale is"),
    ({"tag": None}, "its tag is 'mine', here it is None"),
    ({"tag": "yours"}, "its tag is 'mine', here it is 'yours'"),
    ({"rng": 5}, "was made with rng=4, here it is 5"),
    ({"backend": "numba"}, "its backend is"),
    ({"resume": False}, "exists already; pass resume=True"),
]


@pytest.mark.parametrize(
    ("other", "says"), OTHERS, ids=lambda p: ",".join(p) if isinstance(p, dict) else ""
)
def test_a_run_of_other_settings_is_refused_and_its_file_untouched(run, other, says):
    before = run["checkpoint"].read_bytes()
    arguments = {"x0": X0, "resume": True, "maxiter": 9} | run | other

    def never(x):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=says):
        ox.minimize(never, **arguments)
    assert run["checkpoint"].read_bytes() == before
    assert ox.minimize(exact, X0, resume=True, maxiter=4, **run).nit == 4


def test_damaged_files_are_refused_and_left_as_they_are(run):
    path = run["checkpoint"]
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"text", good[:100], good[:-1], good[: len(good) // 2], good + good[:7]]
    for _ in range(150):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        damaged.append(bytes(data))
    opened = 0
    for data in damaged:
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            # Where it opens, the bit was one of a date or of padding: all that counts was read as
            # it was written.
            assert ox.OptEx.load(path).state.nit == 3
            opened += 1
        assert path.read_bytes() == data
    assert opened < len(damaged) / 4


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: np.save(p.open("wb"), np.ones(3)), "not a saved run"),
        (lambda p: np.savez(p.open("wb"), x=np.ones(3)), "not a saved run"),
        (
            lambda p: np.savez(p.open("wb"), header=np.frombuffer(b"[1]", np.uint8)),
            "not written by optex_core",
        ),
        (
            lambda p: np.savez(p.open("wb"), header=np.frombuffer(b'{"format": "else"}', np.uint8)),
            "not written by optex_core",
        ),
        (lambda p: np.savez(p.open("wb"), header=np.array([None])), "not a saved run"),
        (lambda p: p.mkdir(), "cannot read"),
    ],
    ids=["npy", "npz", "list", "format", "pickle", "folder"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_foreign_files_are_refused(tmp_path, write, says):
    path = tmp_path / "run"
    write(path)
    with pytest.raises(CheckpointError, match=says):
        ox.OptEx.load(path)
    with pytest.raises(CheckpointError, match=says):
        ox.minimize(exact, X0, maxiter=3, checkpoint=path, resume=True)


def test_a_file_from_a_later_version_or_with_missing_parts_is_refused(run):
    path = run["checkpoint"]
    header, arrays = checkpoint_file.read_checkpoint(path)

    def rewrite(header, arrays):
        with path.open("wb") as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)

    rewrite(header | {"version": 99}, arrays)
    with pytest.raises(CheckpointError, match="version 99"):
        ox.OptEx.load(path)
    for missing in arrays:
        rewrite(header, {name: a for name, a in arrays.items() if name != missing})
        with pytest.raises(CheckpointError):
            ox.OptEx.load(path)
    # files of earlier versions, or saved by hand, do not have the later ones
    kept = {"round", "identity", "format", "version", "began", "saves", "members", "summaries"}
    for missing in set(header) - kept:
        rewrite({name: part for name, part in header.items() if name != missing}, arrays)
        with pytest.raises(CheckpointError):
            ox.OptEx.load(path)


def test_a_file_from_before_a_strategy_remembered_more_goes_on(tmp_path):
    options = {"optimizer": ox.SGD(0.1), "parallelism": 3, "strategy": "verified", "rng": 0}

    def fun(x):
        return 0.5 * float(x @ x), x

    path = tmp_path / "run.npz"
    ox.minimize(fun, np.arange(5.0), maxiter=4, checkpoint=path, **options)
    header, arrays = checkpoint_file.read_checkpoint(path)
    assert len(header["memory"]) == 2
    checkpoint_file.write_checkpoint(path, {**header, "memory": header["memory"][:1]}, arrays)
    second = ox.minimize(fun, np.arange(5.0), maxiter=8, checkpoint=path, resume=True, **options)
    assert np.array_equal(second.x, ox.minimize(fun, np.arange(5.0), maxiter=8, **options).x)


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


def test_a_missing_folder_is_found_out_before_anything_is_evaluated(tmp_path):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(CheckpointError, match="folder .* does not exist"):
        ox.minimize(never, X0, checkpoint=tmp_path / "no" / "run")
    with pytest.raises(CheckpointError, match="folder .* does not exist"):
        ox.OptEx(X0).save(tmp_path / "no" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(run, monkeypatch):
    path = run["checkpoint"]
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        ox.minimize(exact, X0, resume=True, maxiter=9, **run)
    assert caught.value.partial_result.nit > 3
    assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {
        "run",
        "run.previous",
        "run.journal",
        "run.previous.journal",
    }
    monkeypatch.undo()
    whole = ox.minimize(exact, X0, **{**run, "checkpoint": path.with_name("whole")}, maxiter=9)

    def never(x):
        raise AssertionError("evaluated again")

    np.testing.assert_array_equal(ox.minimize(never, X0, resume=True, maxiter=9, **run).x, whole.x)


# -- what a file cannot hold -----------------------------------------------------------------------


def decaying(step):
    return 0.01 / (1.0 + step)


class Own:
    """A user's optimizer with a state of arrays."""

    def init(self, x):
        return {"velocity": np.zeros_like(x), "steps": 0}

    def step(self, x, g, state):
        velocity = 0.5 * state["velocity"] - 1e-3 * g
        return x + velocity, {"velocity": velocity, "steps": state["steps"] + 1}


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        (ox.SGD(decaying), r"decaying \(builtins.function\)"),
        (Own(), r"Own"),
        (ox.ClipByNorm(Own(), 5.0), r"Own"),
    ],
    ids=["function", "object", "wrapped"],
)
def test_what_a_file_cannot_hold_is_passed_again_and_the_error_names_it(tmp_path, optimizer, named):
    path = tmp_path / "run"
    run = dict(optimizer=optimizer, parallelism=3, strategy="paper", rng=0)
    whole = ox.minimize(exact, X0, maxiter=8, **run)
    ox.minimize(exact, X0, maxiter=4, checkpoint=path, **run)
    with pytest.raises(
        CheckpointError,
        match=rf"uses \S*{named} in its optimizer, which a file cannot hold; pass optimizer= again",
    ):
        ox.OptEx.load(path)
    assert ox.OptEx.load(path, optimizer=optimizer, maxiter=8).settings.optimizer is optimizer
    assert_same(whole, ox.minimize(exact, X0, maxiter=8, checkpoint=path, resume=True, **run))


def steep(step, rate=0.01):
    return rate / (1.0 + step) ** 2


class Tuned(Own):
    """A user's optimizer with settings in its attributes."""

    def __init__(self, lr, **more):
        self.lr = lr
        self.more = more

    def step(self, x, g, state):
        return x - self.lr * 1e-3 * g, state


class Slotted(Own):
    """The same with slots: no attributes but the declared ones."""

    __slots__ = ("lr",)

    def __init__(self, lr):
        self.lr = lr


class Linear:
    """A user's schedule."""

    def __init__(self, steps):
        self.steps = steps

    def at(self, t):
        return 0.01 * max(1 - t / self.steps, 0.0)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A user's optimizer that is a dataclass."""

    lr: float = 0.1
    scale: object = None

    def init(self, x):
        return ()

    def step(self, x, g, state):
        return x - self.lr * 1e-3 * g, state


UNLIKE = [
    (Tuned(0.1), Tuned(0.1), Tuned(0.7)),
    (
        Tuned(0.1, scale=np.ones(4)),
        Tuned(0.1, scale=np.ones(4)),
        Tuned(0.1, scale=np.ones(4, np.float32)),
    ),
    (
        Tuned(0.1, scale=[np.ones(4)]),
        Tuned(0.1, scale=[np.ones(4)]),
        Tuned(0.1, scale=[np.zeros(4)]),
    ),
    (Slotted(0.1), Slotted(0.1), Slotted(0.7)),
    (Typed(0.1), Typed(0.1), Typed(0.7)),
    (Typed(scale=np.ones((2, 2))), Typed(scale=np.ones((2, 2))), Typed(scale=np.ones(4))),
    (Typed(scale=Tuned(1)), Typed(scale=Tuned(1)), Typed(scale=Tuned(2))),
    (
        ox.ClipByNorm(Typed(0.1), 1.0),
        ox.ClipByNorm(Typed(0.1), 1.0),
        ox.ClipByNorm(Typed(0.7), 1.0),
    ),
    (
        ox.Projected("adam", X0 - 1, 9.0),
        ox.Projected("adam", X0 - 1, 9.0),
        ox.Projected("adam", X0 - 2, 9.0),
    ),
    (ox.SGD(decaying), ox.SGD(decaying), ox.SGD(steep)),
    (Tuned(0.1, inner=Tuned(1)), Tuned(0.1, inner=Tuned(1)), Tuned(0.1, inner=Tuned(2))),
    (ox.SGD(Linear(9).at), ox.SGD(Linear(9).at), ox.SGD(Linear(8).at)),
    (
        ox.SGD(functools.partial(steep, rate=0.01)),
        ox.SGD(functools.partial(steep, rate=0.01)),
        ox.SGD(functools.partial(steep, rate=0.02)),
    ),
]


@pytest.mark.parametrize(("saved", "same", "other"), UNLIKE, ids=lambda part: type(part).__name__)
def test_what_a_file_cannot_hold_is_compared_all_the_same(tmp_path, saved, same, other):
    run = dict(parallelism=2, strategy="paper", rng=0, checkpoint=tmp_path / "run")
    ox.minimize(exact, X0, maxiter=2, optimizer=saved, **run)
    with pytest.raises(CheckpointError, match="belongs to another run: its optimizer") as caught:
        ox.minimize(exact, X0, maxiter=4, resume=True, optimizer=other, **run)
    theirs, mine = str(caught.value).split(" is ", 1)[1].split("; use")[0].split(", here it is ")
    assert theirs != mine  # what differs is shown, however long the rest is
    with pytest.raises(
        CheckpointError,
        match="uses .* in its optimizer, which a file cannot hold; pass optimizer= again",
    ):
        ox.OptEx.load(tmp_path / "run")
    assert ox.minimize(exact, X0, maxiter=4, resume=True, optimizer=same, **run).nit == 4


def test_objects_that_hold_themselves_are_described():
    outer = Tuned(0.1)
    outer.more["self"] = outer
    outer.more["list"] = [outer]
    outer.more["list"].append(outer.more["list"])
    outer.more |= {
        "any": object(),
        "log": logging.getLogger("optex_core"),
        "library": np,
        "objects": np.array([outer, None]),
    }
    text = json.dumps(to_spec(outer))
    assert len(text) < 1000
    assert '"library": {"named": "numpy"' in json.dumps(to_spec(outer), sort_keys=True)
    assert "Tuned" in text
    assert "builtins.object" in text
    assert " at 0x" not in text


def test_bounds_of_many_parameters_are_loaded_as_they_were(tmp_path):
    low = np.linspace(-3.0, -1.0, 1000).astype(np.float32)
    engine = ox.OptEx(
        np.zeros(1000, np.float32), bounds=(list(zip(low, [None] * 1000, strict=True)))
    )
    engine.save(tmp_path / "run")
    loaded = ox.OptEx.load(tmp_path / "run")
    assert loaded.settings.low.tobytes() == low.tobytes()
    assert np.isposinf(loaded.settings.high).all()


def test_new_criteria_may_be_given_and_their_names_are_checked(run):
    engine = ox.OptEx.load(run["checkpoint"], maxiter=11, gtol=0.5)
    assert (engine.settings.criteria.maxiter, engine.settings.criteria.gtol) == (11, 0.5)
    assert engine.stop() == {}
    assert ox.OptEx.load(run["checkpoint"]).stop() == {"maxiter": 3}
    with pytest.raises(TypeError, match="unknown option 'maxitre'; did you mean 'maxiter'"):
        ox.OptEx.load(run["checkpoint"], maxitre=11)


@pytest.mark.parametrize("name", ["", "."])
def test_a_checkpoint_that_names_no_file_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(CheckpointError, match="must be the name of a file"):
        ox.minimize(lambda x: (x @ x, 2 * x), [1.0], checkpoint=name)
