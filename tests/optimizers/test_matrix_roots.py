"""Inverse roots: held to roots that are known by construction, in extended precision."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from combinations import covering_pairs

from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.matrix_jobs import (
    MatrixJob,
    MatrixTask,
    balance_load,
    solve_job,
    tril_indices,
    unpack_symmetric,
)
from optex_core.optimizers._kronecker.matrix_roots import (
    inverse_roots,
    newton_roots,
)
from optex_core.optimizers.shampoo import Shampoo

ORDERS = (1, 2, 4, 6, 8)
EPS = float(np.finfo(np.float64).eps)


def root_of(A, p, ridge=0.0):
    return inverse_roots(A[None], p, ridge=ridge).matrices[0]


@lru_cache(maxsize=256)
def made(n, condition, p, seed=0):
    """A matrix and its root, both rounded from extended precision."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0].astype(np.longdouble)
    for _ in range(3):  # orthogonal to the last bit of the wider type
        q = q @ (3 * np.eye(n) - q.T @ q) / 2
    values = np.logspace(0, -np.log10(condition), n).astype(np.longdouble)
    A, X = (q * values) @ q.T, (q * values ** (-1 / np.longdouble(p))) @ q.T
    return ((A + A.T) / 2).astype(np.float64), X.astype(np.float64)


@pytest.mark.parametrize(
    ("n", "condition", "p"),
    covering_pairs([1, 7, 48], [1.0, 1e2, 1e4, 1e6, 1e8, 1e10], (*ORDERS, 4 / 3, 2.5)),
)
def test_the_error_is_that_of_rounding(n, condition, p):
    A, X = made(n, condition, p)
    # A itself is rounded: eps |A| moves the least eigenvalue by eps * condition, its root by a p-th
    # of that; n eps is that of the products.
    limit = EPS * (condition / p + n)
    assert np.linalg.norm(root_of(A, p) - X) <= 3 * limit * np.linalg.norm(X)


@pytest.mark.parametrize(
    ("condition", "p"), list(zip([1.0, 1e3, 1e6, 1e10, 1e6], ORDERS, strict=True))
)
def test_the_iteration_agrees_with_the_decomposition(condition, p):
    A, _ = made(40, condition, p)
    stack = np.stack([A, 1e-20 * A, np.eye(40)])
    newton = newton_roots(np, stack, p)
    assert newton.accepted.all()
    for one, X in zip(stack, newton.matrices, strict=True):
        # Its ridge lies between one and n^(1/32) of that of the decomposition; both ends bracket
        # it, and the root falls with the ridge.
        high, low = (
            np.linalg.eigvalsh(inverse_roots(one[None], p, ridge=r).matrices[0])
            for r in (1e-6, 1e-6 * 40 ** (1 / 32))
        )
        values = np.linalg.eigvalsh(X)
        assert (values <= high * (1 + 1e-8)).all()
        assert (values >= low * (1 - 1e-8)).all()


ODD = {
    "zero": np.zeros((6, 6)),
    "rank-one": np.outer(np.arange(1.0, 7.0), np.arange(1.0, 7.0)),
    "singular": np.diag([1.0, 0, 0, 2, 3, 0]),
    "huge": 1e300 * np.eye(6),
    "largest": np.full((6, 6), 1.7e308),
    "tiny": 1e-300 * np.eye(6),
    "least": 5e-324 * np.eye(6),
    "uneven": np.diag([1e300, 1e-300, 1, 1, 1, 1]),
    "one": np.array([[4.0]]),
}


@pytest.mark.parametrize(("name", "p", "ridge"), covering_pairs(ODD, ORDERS, [0.0, 1e-6]))
def test_odd_matrices_have_finite_symmetric_roots(name, ridge, p):
    A = ODD[name]
    roots = inverse_roots(A[None], p, ridge=ridge)
    assert roots.accepted.all(), roots.residuals
    X = roots.matrices[0]
    assert np.isfinite(X).all()
    assert (X == X.T).all()
    assert (np.linalg.eigvalsh(X) > 0).all()
    if ridge:
        newton = newton_roots(np, A[None], p, ridge=ridge)
        assert newton.accepted.all(), newton.residuals
        assert np.isfinite(newton.matrices).all()


@pytest.mark.parametrize(
    "roots_of",
    [lambda A: inverse_roots(A, 4), lambda A: newton_roots(np, A, 4)],
    ids=["eigh", "newton"],
)
def test_what_has_no_root_is_marked_and_harms_no_other(roots_of):
    good = made(5, 1e3, 4)[0]
    bad = np.eye(5)
    bad[1, 1] = -1.0
    odd = np.eye(5)
    odd[0, 0] = np.nan
    roots = roots_of(np.stack([good, bad, odd, np.full((5, 5), np.inf), -np.eye(5), good]))
    assert roots.accepted.tolist() == [True, False, False, False, False, True]
    assert np.isfinite(roots.matrices).all()
    np.testing.assert_array_equal(roots.matrices[0], roots.matrices[5])


def test_the_residual_is_that_of_the_matrix_itself():
    A, _ = made(30, 1e4, 4)
    roots = inverse_roots(A[None], 4, ridge=0.0)
    X = roots.matrices[0]
    scale = 2.0 ** np.frexp(np.abs(A).max())[1]
    assert roots.residuals[0] == pytest.approx(
        np.abs(X @ X @ X @ X @ A - np.eye(30)).max(), rel=0.5, abs=1e-15
    )
    assert roots.accepted[0]
    assert scale > 0


@pytest.mark.parametrize("n", [3, 32, 100])
def test_the_bits_do_not_depend_on_the_company(n):
    stack = np.stack([made(n, 1e5, 2, seed)[0] for seed in range(3)])
    together = inverse_roots(stack, 4).matrices
    for one, root in zip(stack, together, strict=True):
        np.testing.assert_array_equal(inverse_roots(one[None], 4).matrices[0], root)


def test_a_ridge_is_no_smaller_than_the_storage_carries():
    assert Shampoo(ridge=1e-6).ridge_in(np.float32) == 1e-6
    assert Shampoo(ridge=1e-12).ridge_in(np.float32) == pytest.approx(8 * 2**-23)
    assert Shampoo(ridge=1e-12).ridge_in(np.float64) == 1e-12


def test_the_iteration_needs_a_ridge():
    with pytest.raises(ArgumentError, match="needs ridge > 0"):
        newton_roots(np, np.eye(2)[None], 2, ridge=0.0)


# -- jobs ------------------------------------------------------------------------------------------


def test_triangles_go_there_and_back():
    A = made(9, 10.0, 2)[0]
    packed = A.ravel()[tril_indices(9)]
    assert packed.shape == (45,)
    np.testing.assert_array_equal(unpack_symmetric(np, packed[None], 9)[0], A)


def job_of(sizes, p=4, dtype=np.float64):
    matrices = [made(n, 1e3, p, seed=i)[0].astype(dtype) for i, n in enumerate(sizes)]
    return MatrixJob(
        np.concatenate([A.ravel()[tril_indices(len(A))] for A in matrices]),
        tuple(MatrixTask(n, p) for n in sizes),
        1e-6,
    ), matrices


def test_a_job_and_its_parts_have_the_same_bits():
    job, matrices = job_of([5, 12, 5, 64, 12, 1])
    whole = solve_job(job)
    for A, one in zip(matrices, whole, strict=True):
        np.testing.assert_allclose(one.matrix, root_of(A, 4, ridge=1e-6), rtol=1e-11)
    for group in ([3], [0, 2], [5, 1, 4]):
        for i, one in zip(group, solve_job(job.part(group)), strict=True):
            np.testing.assert_array_equal(one.matrix, whole[i].matrix)


def test_a_job_says_which_root_is_missing():
    job, _ = job_of([4, 4])
    packed = job.packed.copy()
    packed[12] = np.nan
    first, second = solve_job(MatrixJob(packed, job.items, 1e-6))
    assert first.matrix is not None
    assert second.matrix is None
    assert second.residual == np.inf


def test_costs_are_spread_evenly():
    assert balance_load([8, 1, 1, 1, 1, 1, 1, 1, 1], 2) == [0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert sorted(balance_load([1] * 6, 3)) == [0, 0, 1, 1, 2, 2]
    assert balance_load([], 3) == []
