"""The closed list of operations whose cost grows with d: what an array library has to provide.

Everything else in the package is T0 x T0 work in NumPy on the host. Semantics are stated here; the
NumPy backend defines the answers, and the conformance checks compare every other backend with it.

Conventions of every operation. Vectors have shape (d,), rows shape (n, d), both C-contiguous along
d and of one dtype (float32 or float64). Inputs are never written, outputs never alias inputs unless
said. Sums over d are accumulated in float64 and returned as host float64. Results do not depend on
the number of threads. Overflow, division by zero and nan follow IEEE 754 without a warning.
Read-only and non-contiguous arrays are accepted, at the price of a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends.types import FusedSteps, PosteriorArrays, Rule, SubspaceRolloutFunction
from optex_core.types import Array

#: Entries of one operand of a product or a sum that are handled at a time by the default methods.
_CHUNK = 65_536


class Backend(ABC):
    """One array library. Instances have no state that influences results."""

    name: ClassVar[str]
    #: The namespace of the array library: numpy or cupy.
    xp: ModuleType
    #: Weighted sums of vectors are products of BLAS, which may share them out among its threads.
    blas: ClassVar[bool] = False
    #: A product has the same bits whatever else `difference_products` is asked for in the same
    #: call, and in either order of its factors, so that many calls may become one.
    batch_invariant_products: ClassVar[bool] = False

    def ignore_fp_warnings(self) -> AbstractContextManager[None]:
        """A context for many operations: what suppresses their warnings is then set up once."""
        return nullcontext()

    # Arrays.

    @abstractmethod
    def copy_in(self, x: Array, dtype: DTypeLike) -> Array:
        """A new array of `dtype` on this backend's device, never an alias of `x`."""

    @abstractmethod
    def to_host(self, x: Array) -> np.ndarray:
        """`x` as a NumPy array; may alias when it already is one."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised array."""

    @abstractmethod
    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array of zeros."""

    @abstractmethod
    def read_only(self, x: Array) -> Array:
        """A view of `x` that user code cannot write (a copy where the library has none)."""

    # Reductions over d.

    @abstractmethod
    def dot(self, a: Array, b: Array) -> float:
        """sum_k a_k b_k."""

    @abstractmethod
    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        """sum_k ((a_k - b_k) / scale_k)^2, from differences.

        The expansion |a|^2 + |b|^2 - 2ab loses every digit between close iterates.
        """

    @abstractmethod
    def max_abs(self, x: Array) -> float:
        """max_k |x_k|; nan if any entry is nan."""

    @abstractmethod
    def all_finite(self, x: Array) -> bool:
        """True if no entry is nan or infinite."""

    # History.

    @abstractmethod
    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        """Host float64, shape (n,): sum_k ((rows_ik - x_k) / scale_k)^2 of every row."""

    def pairwise_distances(
        self, rows: Array, points: Sequence[Array], scale: Array | None = None
    ) -> np.ndarray:
        """Host float64, shape (m, n): `squared_distances` of m points, bit for bit."""
        found = [self.squared_distances(rows, x, scale) for x in points]
        return np.array(found).reshape(len(points), len(rows))

    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        """Host float64, shape (m, n): D of `pair_products` (E with `inverse`) for one array."""
        D, E, _ = self.pair_products(rows, rows, new, scale)
        return E if inverse else D

    @abstractmethod
    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(D, E, M), each host float64 of shape (m, n), for the m rows at the indices `new`.

        With r = new_a: D_ai = sum_k ((X_ik - X_rk) / scale_k)^2;
        E_ai = sum_k (scale_k (G_ik - G_rk))^2 (a gradient has the inverse units of its parameter);
        M_ai = sum_k (G_ik - G_rk)(X_ik - X_rk). No scale is a scale of one. X and G are read once.
        """

    @abstractmethod
    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        """One weighted sum of rows, shape (d,), dtype of `rows`, accumulated in float64.

        rows_r + sum_i w_i (rows_i - rows_r) with r = `anchor`; sum_i w_i rows_i without one. The
        anchored form keeps its digits when weights are large and sum to one (|w|_1 reached 200).
        """

    @abstractmethod
    def predict(
        self,
        X: Array,
        G: Array,
        weights: np.ndarray,
        anchor: int | None,
        x: Array,
        curvature: float,
        scale: Array | None = None,
    ) -> Array:
        """The posterior mean gradient at `x`, shape (d,), dtype of `G`.

        weighted_sum(G, w, r) + curvature / scale^2 (x - weighted_sum(X, w, r)). With curvature 0,
        `X` is not read.
        """

    def difference_products(
        self, A: Array | Sequence[Array], a: np.ndarray, B: Array | Sequence[Array], b: np.ndarray
    ) -> np.ndarray:
        """Host float64, shape (p, q): sum_k (A_{a_i0} - A_{a_i1})_k (B_{b_j0} - B_{b_j1})_k.

        `a` (p, 2) and `b` (q, 2) are index pairs; -1 stands for a vector of zeros. A and B are
        rows, or sequences of vectors and rows, counted one after the other. Differences are taken
        in float64 before anything is multiplied.
        """
        xp = self.xp
        left, right = (rows if hasattr(rows, "shape") else xp.vstack(list(rows)) for rows in (A, B))  # type: Any, Any
        for rows, pairs in ((left, a), (right, b)):
            if len(pairs) and pairs.max() >= len(rows):  # CuPy would take another row
                raise IndexError(f"pairs of rows out of bounds for {len(rows)} rows")
        total, same = xp.zeros((len(a), len(b))), A is B and a is b
        width = max(1_024, _CHUNK // max(1, len(a)))
        with self.ignore_fp_warnings():
            for low in range(0, left.shape[1], width):
                s = slice(low, low + width)
                one = _differences(xp, left[:, s], a)
                total += one @ (one if same else _differences(xp, right[:, s], b)).T
        return self.to_host(total)

    def weighted_sums(
        self,
        X: Array | None,
        P: np.ndarray,
        G: Array,
        Q: np.ndarray,
        anchor: int,
        extras: Sequence[Array],
        A: np.ndarray,
    ) -> list[Array]:
        """Several sums of vectors in one pass: k arrays of shape (d,), dtype of `G`.

        out_j = sum_e A_je extras_e + sum_i P_ji (X_i - X_r) + sum_i Q_ji (G_i - G_r) with r =
        `anchor`, accumulated in float64. Weights are host float64: P and Q of shape (k, rows used
        of X and G), A of shape (k, extras). X None: no second sum.
        """
        xp, d = self.xp, G.shape[1]
        weights = [(side, xp.asarray(w)) for side, w in ((X, P), (G, Q)) if side is not None]
        A = xp.asarray(A)
        out = [self.empty(d, G.dtype) for _ in A]
        width = max(1_024, _CHUNK // max(1, Q.shape[1]))
        with self.ignore_fp_warnings():
            for low in range(0, d, width):
                s = slice(low, low + width)
                total = A @ xp.stack([e[s] for e in extras]).astype(xp.float64)
                for side, w in weights:
                    rows = side[: w.shape[1], s]
                    total += w @ xp.subtract(rows, side[anchor, s], dtype=xp.float64)
                for row, piece in zip(out, total, strict=True):
                    row[s] = piece
        return out

    # Coefficients, which live on the host.

    def subspace_rollout(
        self,
        lines: tuple[str, ...],
        result: str,
        constant: bool,
        rule: Rule,
        slots: int,
        scalars: int,
    ) -> SubspaceRolloutFunction | None:
        """A compiled rollout on coefficients; None: the caller takes the steps one by one.

        `lines` and `result` are the kernel's `complement` where the weights sum to one
        (`constant`), else its `profile`, as a `Formula` has them; the `rule` takes so many `slots`
        and `scalars`. The result is called as ``rollout(K, rows, ages, thetas, gradients, center,
        transposed, numbers, scalars, points, slots, means) -> steps``.
        `model.subspace` describes the first five, `model.kriging` the next two; `numbers`
        are 1 / length^2, 1 / h0, the curvature and the largest finite squared length; `scalars`
        (S, .) are those of each step. It starts at ``points[0]``, ``slots[0]`` in arrays of S + 1,
        and ends where a point is not finite.
        """
        return None

    # Elementwise.

    @abstractmethod
    def apply(
        self, rule: Rule, arrays: Sequence[Array], scalars: Sequence[float]
    ) -> tuple[Array, ...]:
        """``rule(xp)(*arrays, *scalars)``: new arrays, each of shape (d,), of the one dtype of
        `arrays`. The rule is elementwise: it may be given pieces. Scalars are cast to the dtype.
        """

    def fused_steps(
        self,
        rule: Rule,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: Sequence[Sequence[float]],
    ) -> FusedSteps | None:
        """Predicted steps as `predict` and `apply` take them one by one, to rounding; None: the
        caller does so.

        `x` and the state vectors `slots` have shape (d,) and the dtype of the rows. `scalars` are
        the rule's, for every step that may be asked for.
        """
        return None

    def axpy(self, a: float, x: Array, y: Array) -> Array:
        """a x + y, a new array."""
        return self.apply(axpy_rule, (x, y), (a,))[0]

    def clip(self, x: Array, low: Array | float, high: Array | float) -> Array:
        """min(max(x, low), high), a new array; nan stays nan."""
        if np.ndim(low) == np.ndim(high) == 0:
            return self.apply(clip_rule, (x,), (float(low), float(high)))[0]
        xp = self.xp
        bounds = [xp.broadcast_to(xp.asarray(b, dtype=x.dtype), x.shape) for b in (low, high)]
        return self.apply(clip_rule, (x, *bounds), ())[0]

    def average(self, vectors: Sequence[Array]) -> Array:
        """The mean of vectors of shape (d,), a new array of their dtype.

        v_0 + sum_i (v_i - v_0) / n in float64, in order: the mean of equal vectors is that vector.
        """
        first = vectors[0].astype(np.float64)
        total = self.zeros(len(first), np.float64)
        with self.ignore_fp_warnings():
            for v in vectors[1:]:
                total += v - first
            total /= len(vectors)
            total += first
            return total.astype(vectors[0].dtype, copy=False)


def _differences(xp: ModuleType, rows: Array, pairs: np.ndarray) -> Array:
    """Rows minus rows in float64; -1 in a pair stands for zeros."""
    out = rows[xp.asarray(pairs[:, 0])].astype(xp.float64)
    some = np.flatnonzero(pairs[:, 1] >= 0)
    if len(some) == len(pairs):
        out -= rows[xp.asarray(pairs[:, 1])]
    elif len(some):
        out[xp.asarray(some)] -= rows[xp.asarray(pairs[some, 1])]
    return out


def axpy_rule(_xp: ModuleType) -> Any:
    """The rule of a x + y."""
    return lambda x, y, a: (a * x + y,)


def clip_rule(xp: ModuleType) -> Any:
    """The rule of min(max(x, low), high)."""
    return lambda x, low, high: (xp.minimum(xp.maximum(x, low), high),)
