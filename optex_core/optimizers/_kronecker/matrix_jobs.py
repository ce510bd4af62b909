"""Jobs of inverse roots and eigenbases, computed here or by a service elsewhere.

A job is a pure function of the matrices that it holds: results do not depend on who computes it,
when, or how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from optex_core.backends import for_array
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.optimizers._kronecker.eigenbases import eigenbases
from optex_core.optimizers._kronecker.matrix_roots import inverse_roots, newton_roots
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class MatrixTask:
    """One matrix of a job: its size n, and p of the root A^(-1/p), or 0 for an eigenbasis."""

    n: int
    p: float

    @property
    def triangle_size(self) -> int:
        """Entries of one triangle."""
        return self.n * (self.n + 1) // 2

    @property
    def packed_size(self) -> int:
        """Entries in a job: a triangle, and for an eigenbasis the one before."""
        return self.triangle_size + (0 if self.p else self.n**2)

    @property
    def cost(self) -> int:
        """n^3, what a decomposition takes up to a factor of about 25 flops."""
        return self.n**3


@dataclass(frozen=True, slots=True, eq=False)
class MatrixJob:
    """Matrices whose inverse roots or eigenbases are wanted; one array is one job."""

    #: Lower triangles, row by row, one matrix after the other; for an eigenbasis its triangle is
    #: followed by the basis before (zeros: none).
    packed: Array
    items: tuple[MatrixTask, ...]
    ridge: float  # as in `inverse_roots`; the floor of `eigenbases`
    solver: str = "eigh"  # on the CPU wherever the array is; or "newton", where the array is

    def part(self, indices: Sequence[int]) -> MatrixJob:
        """A job of some of the matrices, with a copy of their entries on the host."""
        host = for_array(self.packed).to_host(self.packed)
        pieces, items = [host[s] for s in self.slices()], self.items
        packed = np.concatenate([pieces[i] for i in indices])
        return replace(self, packed=packed, items=tuple(items[i] for i in indices))

    def slices(self) -> list[slice]:
        """The entries of `packed` that belong to each matrix."""
        ends = np.cumsum([0, *(item.packed_size for item in self.items)]).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class MatrixResult:
    """One root or basis, shape (n, n), float64, or None, and its residual."""

    matrix: Array | None
    residual: float


@runtime_checkable
class MatrixService(Protocol):
    """Computes jobs, perhaps in the background; both methods may be called many times."""

    def submit(self, job: MatrixJob) -> None:
        """Start computing if that is not under way yet; returns at once."""
        ...

    def result(self, job: MatrixJob) -> list[MatrixResult]:
        """The matrices in the order of ``job.items``; computes what has not been submitted."""
        ...


def solve_job(job: MatrixJob) -> list[MatrixResult]:
    """The roots or bases of a job, with one BLAS thread: the bits are those of every worker."""
    found: dict[int, MatrixResult] = {}
    slices = job.slices()
    backend = for_array(job.packed)
    newton = job.solver == "newton"
    xp = backend.xp if newton else np
    whole = job.packed if newton else backend.to_host(job.packed)
    with blas_single_threaded(len(job.packed)), np.errstate(all="ignore"):
        for kind in dict.fromkeys(job.items):
            indices = [i for i, item in enumerate(job.items) if item == kind]
            packed = xp.stack([whole[slices[i]] for i in indices]).astype(np.float64)
            stack = unpack_symmetric(xp, packed[:, : kind.triangle_size], kind.n)
            if not kind.p:
                before = packed[:, kind.triangle_size :].reshape(-1, kind.n, kind.n)
                roots = eigenbases(stack, before, floor=job.ridge)
            elif newton:
                roots = newton_roots(xp, stack, int(kind.p), ridge=job.ridge)
            else:
                roots = inverse_roots(stack, kind.p, ridge=job.ridge)
            for k, i in enumerate(indices):
                matrix = roots.matrices[k] if roots.accepted[k] else None
                found[i] = MatrixResult(matrix, float(roots.residuals[k]))
    return [found[i] for i in range(len(job.items))]


def balance_load(costs: Sequence[int], bins: int) -> list[int]:
    """A bin for each cost: the most costly first, each into the first of the lightest bins."""
    loads, where = [0] * bins, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        where[i] = loads.index(min(loads))
        loads[where[i]] += costs[i]
    return where


@lru_cache(maxsize=64)
def tril_indices(n: int) -> np.ndarray:
    """Flat indices of the lower triangle of an n x n matrix, row by row; int64, read-only."""
    indices = np.flatnonzero(np.tri(n, dtype=bool))
    indices.flags.writeable = False
    return indices


def unpack_symmetric(xp: ModuleType, packed: Array, n: int) -> Array:
    """Symmetric matrices, shape (K, n, n), from their lower triangles, shape (K, n (n + 1) / 2)."""
    full = xp.zeros((len(packed), n * n), packed.dtype)
    where = xp.asarray(tril_indices(n))
    full[:, where] = packed
    full = full.reshape(-1, n, n)
    rows, columns = where // n, where % n
    full[:, columns, rows] = packed
    return full
