"""SOAP: against a plain loop of its formulas, against Adam with its bases switched off, and with
bases that are computed elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal

import numpy as np
import pytest
from combinations import covering_pairs
from kronecker_paths import SHAPES, D, InlineService, gradient, start, walked

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError
from optex_core.optimizers._kronecker.eigenbases import eigenbases
from optex_core.optimizers._kronecker.matrix_jobs import (
    MatrixJob,
    MatrixResult,
    MatrixTask,
    solve_job,
    tril_indices,
)
from optex_core.optimizers._pytree import tree_leaves, tree_unflatten
from optex_core.testing import check_optimizer
from optex_core.testing.assertions import same_bits
from optex_core.testing.reference.soap import soap_path

# -- the formulas, one after the other -------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        ([(6, 4)], {"interval": 1}),
        ([(6, 4)], {"interval": 1, "basis": "eigh"}),
        ([(6, 4), (1, 5), (3,), ()], {"interval": 3, "vectors": True}),
        ([(3, 4, 2)], {"interval": 2, "b1": 0.8, "b2": 0.9}),
        ([(2, 3, 2, 2)], {"interval": 5, "statistics_b2": 1.0}),
        ([(6, 4)], {"interval": 4, "delay": 1, "decay": 0.1}),
        ([(6, 4)], {"interval": 2, "delay": 5, "start": 7, "statistics_b2": 0.8}),
        ([(6, 4)], {"interval": 3, "delay": 2, "trusted": lambda t: t % 3 != 1}),
        ([(5, 3)], {"sides": "left", "statistics_interval": 2, "eps": 1e-3}),
        ([(5, 3), (4, 4)], {"sides": "right", "basis": "eigh", "interval": 4}),
    ],
)
def test_the_path_is_that_of_the_slow_twin(shapes, settings):
    trusted = settings.get("trusted", lambda t: True)
    given = {key: value for key, value in settings.items() if key != "trusted"}
    optimizer = ox.SOAP(0.05, shapes=shapes, merge="none", spread=False, **given)
    x = start(sum(int(np.prod(shape)) for shape in shapes))
    expected = soap_path(optimizer, x, gradient, 25, trusted)
    path, _ = walked(optimizer, 25, x, trusted=trusted)
    # Eigenvectors of neighbouring eigenvalues have errors of eps / gap, gaps of 1e-3 and more here.
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [{"spread": True}, {"merge": "right"}, {"block_size": 3}, {"shapes": None}]
)
def test_the_reference_refuses_what_it_has_not(settings):
    optimizer = ox.SOAP(0.1, **{"shapes": [(5, 3)], "merge": "none", "spread": False, **settings})
    with pytest.raises(ArgumentError, match="the reference implementation needs"):
        soap_path(optimizer, start(15), gradient, 1)


def test_all_checks_of_optimizers_hold_with_their_formula():
    optimizer = ox.SOAP(0.05, shapes=[(3, 2)], interval=2, merge="none", spread=False)
    report = check_optimizer(
        optimizer, d=6, reference=lambda x0, G: soap_path(optimizer, x0, lambda _x, t: G[t], len(G))
    )
    assert report.ok, report


# -- reductions ------------------------------------------------------------------------------------


KNOWN = {
    "adam": (ox.Adam(0.05), {"b2": 0.999}),
    "settings": (ox.Adam(0.05, b1=0.8, b2=0.95, eps=1e-4), {"b1": 0.8, "b2": 0.95, "eps": 1e-4}),
    "adamw": (ox.AdamW(0.05, decay=0.3), {"b2": 0.999, "decay": 0.3}),
}
OFF = {
    "sides": {"sides": "none"},
    "single-numbers": {"shapes": [()] * D},
    "no-vectors": {"shapes": [(D,)], "vectors": False},
    "max-axis": {"max_axis": 1},
}


@pytest.mark.parametrize(
    ("name", "off", "backend", "dtype"),
    covering_pairs(KNOWN, OFF, ["numpy", "numba"], [np.float32, np.float64]),
)
def test_without_bases_it_is_adam_bit_for_bit(name, off, backend, dtype):
    known, settings = KNOWN[name]
    optimizer = ox.SOAP(0.05, **{"shapes": SHAPES, **settings, **OFF[off]})
    chosen = get_backend(backend)
    expected, _ = walked(known, 20, start(dtype=dtype), backend=chosen)
    path, _ = walked(optimizer, 20, start(dtype=dtype), backend=chosen)
    for mine, theirs in zip(path, expected, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, theirs)


def test_predicted_gradients_alone_are_adam():
    path, state = walked(ox.SOAP(0.05, shapes=SHAPES, b2=0.999), trusted=lambda t: False)
    np.testing.assert_array_equal(path, walked(ox.Adam(0.05))[0])
    assert (state.t, state.seen) == (25, 0)


def test_a_basis_that_only_changes_its_order_and_signs_changes_no_step():
    class Shuffled(InlineService):
        def result(self, job):
            rng = np.random.default_rng(0)
            return [
                MatrixResult(one.matrix[:, rng.permutation(len(one.matrix))] * -1.0, one.residual)
                for one in super().result(job)
            ]

    settings = {"shapes": [(6, 4)], "interval": 3, "basis": "eigh"}
    path, _ = walked(ox.SOAP(0.05, **settings), 12, start(24))
    shuffled, _ = walked(ox.SOAP(0.05, **settings, roots=Shuffled()), 12, start(24))
    np.testing.assert_allclose(shuffled, path, rtol=1e-10, atol=1e-12)


def test_the_second_moment_follows_the_basis_and_keeps_its_sum():
    optimizer = ox.SOAP(0.05, shapes=[(6, 4)], interval=4, b2=0.95, basis="eigh")
    path, state = walked(optimizer, 4, start(24))
    _, v = state.slots
    g = gradient(path[-1], 4)
    _, kept = optimizer.step(path[-1], g, state, trusted=False)
    _, turned = optimizer.step(path[-1], g, dataclasses.replace(state, seen=7))
    assert turned.matrices is not state.matrices
    # rotations keep |g|^2, and (R * R) the sum of v
    expected = 0.95 * v.sum() + 0.05 * g @ g
    assert kept.slots[1].sum() == pytest.approx(expected, rel=1e-12)
    assert turned.slots[1].sum() == pytest.approx(expected, rel=1e-12)
    assert (turned.slots[1] >= 0.0).all()
    assert not np.allclose(turned.slots[1], kept.slots[1])


def test_turned_parameters_have_turned_steps():
    # With bases SOAP does not see in which coordinates a matrix is written.
    rng = np.random.default_rng(5)
    A, B = (np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2))
    optimizer = ox.SOAP(0.05, shapes=[(5, 5)], interval=1)
    x, y, nothing = np.zeros(25), np.zeros(25), (np.zeros(25), np.zeros(25))
    one, other = optimizer.init(x), optimizer.init(y)
    for t, g in enumerate(rng.standard_normal((12, 5, 5))):
        x, one = optimizer.step(x, g.ravel(), one)
        y, other = optimizer.step(y, (A @ g @ B.T).ravel(), other)
        if t < 2:  # forget the steps that had none
            x, y = np.zeros(25), np.zeros(25)
            one, other = (dataclasses.replace(state, t=0, slots=nothing) for state in (one, other))
    np.testing.assert_allclose(A @ x.reshape(5, 5) @ B.T, y.reshape(5, 5), rtol=1e-7, atol=1e-9)


# -- bases -----------------------------------------------------------------------------------------


def symmetric(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, 2 * n)) * np.logspace(0, -2, 2 * n)
    return A @ A.T


def off_diagonal(A, Q):
    B = Q.T @ A @ Q
    return np.linalg.norm(B - np.diag(B.diagonal())) / np.linalg.norm(B)


def test_a_first_basis_is_that_of_the_eigenvectors_and_later_ones_come_nearer():
    A = symmetric(12)
    first = eigenbases(A[None], np.zeros((1, 12, 12)), floor=1e-13)
    assert first.accepted.all()
    assert off_diagonal(A, first.matrices[0]) < 1e-14
    assert (np.diff((first.matrices[0].T @ A @ first.matrices[0]).diagonal()) <= 0).all()
    moved = A + 0.1 * symmetric(12, 1)
    Q = first.matrices[0]
    assert abs(Q.T @ eigenbases(moved[None], Q[None], floor=1e-13).matrices[0]).argmax(
        0
    ).tolist() == list(range(12))
    found = [off_diagonal(moved, Q)]
    for _ in range(8):
        Q = eigenbases(moved[None], Q[None], floor=1e-13).matrices[0]
        found.append(off_diagonal(moved, Q))
        np.testing.assert_allclose(Q.T @ Q, np.eye(12), atol=1e-13)
    assert found[-1] < 0.2 * found[0]


@pytest.mark.parametrize(
    "A",
    [np.zeros((5, 5)), 1e300 * symmetric(5), 1e-300 * symmetric(5), np.diag([1.0, 0, 0, 0, 0])],
)
@pytest.mark.parametrize("before", [np.zeros((5, 5)), np.eye(5)])
def test_odd_matrices_have_orthogonal_bases(A, before):
    found = eigenbases(A[None], before[None], floor=1e-13)
    assert found.accepted.all()


def test_what_is_not_finite_has_no_basis_and_harms_no_other():
    A, bad = symmetric(4), np.full((4, 4), np.nan)
    found = eigenbases(np.stack([A, bad, A]), np.zeros((3, 4, 4)), floor=1e-13)
    assert found.accepted.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.matrices[0], found.matrices[2])


def test_a_job_and_its_parts_have_the_same_bits():
    matrices = [symmetric(n, n) for n in (3, 5, 3, 7)]
    bases = [np.linalg.qr(A)[0] if len(A) > 3 else np.zeros_like(A) for A in matrices]
    packed = np.concatenate(
        [
            part
            for A, Q in zip(matrices, bases, strict=True)
            for part in (A.ravel()[tril_indices(len(A))], Q.ravel())
        ]
    )
    job = MatrixJob(packed, tuple(MatrixTask(len(A), 0) for A in matrices), 0.0)
    whole = solve_job(job)
    for group in ([3], [0, 2], [1, 3, 0]):
        for i, one in zip(group, solve_job(job.part(group)), strict=True):
            np.testing.assert_array_equal(one.matrix, whole[i].matrix)


# -- the pipeline ----------------------------------------------------------------------------------

PIPELINE = {"shapes": SHAPES, "block_size": 4, "interval": 3, "delay": 2, "vectors": True}


@pytest.mark.parametrize("basis", ["qr", "eigh"])
@pytest.mark.parametrize("workers", [1, "threads"])
def test_bases_computed_elsewhere_have_the_same_bits(workers, basis):
    expected = walked(ox.SOAP(0.05, **PIPELINE, basis=basis))
    with ox.RootPool(workers) as pool:
        found = walked(ox.SOAP(0.05, **PIPELINE, basis=basis, roots=pool))
        assert pool.begun > 10
        assert pool.inline == 0
    assert same_bits(found, expected)


def test_killed_workers_lose_nothing(caplog):
    expected = walked(ox.SOAP(0.05, **PIPELINE), 14)[0][-1]
    with ox.RootPool(2) as pool, caplog.at_level(logging.WARNING, logger="optex_core"):
        optimizer = ox.SOAP(0.05, **PIPELINE, roots=pool)
        path, state = walked(optimizer, 6)
        for member in list(pool._workers.pool._members.values()):
            os.kill(member.worker.pid, signal.SIGKILL)
        path, state = walked(optimizer, 8, path[-1], state, 6)
    np.testing.assert_array_equal(path[-1], expected)
    assert "computed in place" in caplog.text or pool.inline == 0


@pytest.mark.parametrize("delay", [0, 4])
def test_a_saved_state_goes_on_with_the_same_bits_jobs_in_flight_included(delay):
    optimizer = ox.SOAP(0.05, shapes=SHAPES, interval=3, delay=delay)
    path, state = walked(optimizer, 11)
    assert (optimizer.report(state)["pending"] > 0) == (delay > 0)
    leaves = tree_leaves(state)
    arrays = [np.asarray(leaf) if leaf is not None else None for leaf in leaves]
    back = tree_unflatten(optimizer.init(start()), arrays)
    one, two = (walked(optimizer, 9, path[-1], s, 11) for s in (state, back))
    assert same_bits(one, two)


def test_a_saved_run_goes_on_with_the_same_bits_with_and_without_a_pool(tmp_path):
    def fun(x):
        g = np.sin(1.3 * x) + 0.5 * x
        return float((0.25 * x * x - np.cos(1.3 * x) / 1.3).sum()), g

    settings = {"parallelism": 3, "rng": 0}
    x0 = np.linspace(-1, 1, D)
    plain = ox.minimize(fun, x0, optimizer=ox.SOAP(0.05, **PIPELINE), maxiter=16, **settings)
    path = tmp_path / "run.npz"
    with ox.RootPool("threads") as pool:
        optimizer = ox.SOAP(0.05, **PIPELINE, roots=pool)
        ox.minimize(fun, x0, optimizer=optimizer, maxiter=9, checkpoint=path, **settings)
    engine = ox.OptEx.load(path)
    assert engine.settings.optimizer == optimizer
    assert optimizer.report(engine.state.optimizer_state)["pending"] > 0
    found = ox.minimize(
        fun,
        x0,
        optimizer=ox.SOAP(0.05, **PIPELINE),
        maxiter=16,
        checkpoint=path,
        resume=True,
        parallelism=3,
    )
    np.testing.assert_array_equal(found.x, plain.x)


@pytest.mark.parametrize("settings", [{}, {"delay": 3, "interval": 2}, {"packed_dtype": "float32"}])
def test_steps_are_pure(settings):
    optimizer = ox.SOAP(0.05, shapes=SHAPES, **settings)
    x = start()
    _, state = walked(optimizer, 6)
    g = gradient(x)
    given = [x, g, *(leaf for leaf in tree_leaves(state) if isinstance(leaf, np.ndarray))]
    for array in given:
        array.flags.writeable = False
    first, second = optimizer.step(x, g, state), optimizer.step(x, g, state)
    assert same_bits(first, second)
    assert not np.shares_memory(first[0], x)


def test_numba_takes_the_same_steps():
    optimizer = ox.SOAP(0.05, shapes=SHAPES, start=2, interval=2, delay=1)
    path, _ = walked(optimizer, 12)
    other, _ = walked(optimizer, 12, backend=get_backend("numba"))
    np.testing.assert_allclose(other, path, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("packed", ["float32", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_has_its_own_precision(dtype, packed):
    settings = {"shapes": SHAPES, "interval": 2}
    path, state = walked(ox.SOAP(0.05, packed_dtype=packed, **settings), 10, start(dtype=dtype))
    assert path[-1].dtype == dtype
    assert {state.statistics.dtype, *(a.dtype for pair in state.matrices for a in pair)} == {
        np.dtype(packed)
    }
    exact, _ = walked(ox.SOAP(0.05, **settings), 10)
    assert np.abs(path[-1] - exact[-1]).max() < (
        1e-9 if dtype == np.float64 == np.dtype(packed) else 2e-2
    )


# -- failures --------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_is_left_out_and_many_in_a_row_are_an_error(caplog):
    optimizer = ox.SOAP(0.05, shapes=SHAPES, max_skipped=3)
    path, state = walked(optimizer, 4)
    g = np.where(np.arange(D) == 30, np.inf, 1.0)
    with caplog.at_level(logging.WARNING, logger="optex_core"):
        x, after = optimizer.step(path[-1], g, state)
    np.testing.assert_array_equal(x, path[-1])
    assert "SOAP: a gradient that is not finite, in v (4, 5), was left out" in caplog.text
    _, after = optimizer.step(x, g, after)
    with pytest.raises(EvaluationError, match="SOAP: 3 gradients in a row were not finite"):
        optimizer.step(x, g, after)


def test_a_basis_that_is_none_is_not_installed(caplog):
    class Refusing(InlineService):
        def result(self, job):
            return [MatrixResult(None, 0.5)] * len(job.items)

    optimizer = ox.SOAP(0.05, shapes=[(6, 4)], b2=0.999, roots=Refusing())
    with caplog.at_level(logging.WARNING, logger="optex_core"):
        path, state = walked(optimizer, 8, start(24))
    np.testing.assert_allclose(path, walked(ox.Adam(0.05), 8, start(24))[0], rtol=1e-12)
    assert optimizer.report(state)["rejected"] == 3
    assert optimizer.report(state)["waiting"] == ["0 (6, 4)"]
    assert "0 (6, 4), side 1 missed its residual" in caplog.text


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-160, 1e150])
def test_gradients_of_any_size_give_finite_steps(size):
    optimizer = ox.SOAP(0.05, shapes=[(4, 3)], interval=1)
    x = np.ones(12)
    state = optimizer.init(x)
    for t in range(4):
        x, state = optimizer.step(x, size * gradient(np.ones(12), t), state)
        assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ox.SOAP(0.1, basis="svd"), "basis must be one of 'qr', 'eigh', got 'svd'"),
        (lambda: ox.SOAP(0.1, b2=1.0), "b2 must be a number >= 0 and < 1"),
        (lambda: ox.SOAP(0.1, statistics_b2=0.0), "statistics_b2 must be a number > 0 and <= 1"),
        (lambda: ox.SOAP(0.1, exponent=2), "unknown option 'exponent'"),
        (
            lambda: ox.SOAP(0.1, shapes={"w": (2, 2)}, overrides={"w": {"exponent": 2}}),
            "unknown rule 'exponent' for the tensor 'w'",
        ),
        (lambda: ox.SOAP().plan(), r"plan needs shapes: SOAP\(shapes"),
    ],
)
def test_bad_input_is_named(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()


def test_the_plan_is_what_is_allocated():
    optimizer = ox.SOAP(0.1, shapes={"w": (30, 10), "b": (10,), "s": ()}, block_size=16, delay=10)
    x = start(311)
    plan = optimizer.plan(show=False)
    assert "no: Adam alone" in str(plan)
    _, state = walked(optimizer, 30, x)
    found = {
        name: sum(a.nbytes for a in tree_leaves(getattr(state, name)) if a is not None)
        for name in ("statistics", "matrices", "slots", "pending")
    }
    assert (plan.statistics, plan.roots, plan.moments, plan.jobs) == tuple(found.values())
