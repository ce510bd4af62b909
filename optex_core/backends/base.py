"""The closed list of operations whose cost grows with d: all that an array library has to provide.

Everything else in the package is T0 x T0 work in NumPy on the host. Semantics are stated here, the
NumPy backend defines the answers, and the conformance checks hold every other backend to it.

Conventions for every operation: vectors have shape (d,), rows shape (n, d), both C-contiguous along
d, of one dtype (float32 or float64). Inputs are never written, outputs never alias inputs unless
said. Sums over d are accumulated in float64 and returned as host float64. Results do not depend on
the number of threads. Overflow, division by zero and nan follow IEEE 754 without a warning: a step
that blows up is the engine's to notice, on every backend alike. Arrays that are read-only or not
contiguous are accepted, at the price of a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np

from optex_core.backends._tracing import Formula
from optex_core.types import Array

#: ``rule(xp)`` returns an elementwise function ``step(x, g, *slots, *scalars) -> (x, *slots)`` made
#: of arithmetic and xp ufuncs only.
Rule = Callable[[Any], Callable[..., tuple[Any, ...]]]
#: As `Backend.subspace_rollout` gives it.
SubspaceRolloutFunction = Callable[..., int]


class PosteriorArrays(NamedTuple):
    """An estimate of the gradient as numbers: all that predicted steps need to know of it.

    mu(x) is `Backend.predict` with the weights w = base_weights + inverse_h0 B'B (center + sign
    kappa), kappa_i = formula(inverse s_i), where s_i is the squared distance of x to the row i, on
    all coordinates or by `distances_fn`.

    Attributes
    ----------
    X, G : arrays, shape (n, d)
    anchor : int or None
    linear : bool
        The curvature may be other than 0.
    curvature : float
    scale : array, shape (d,), or None
    distances_fn : callable or None
        ``distances_fn(x)``: the squared distances, where they are taken on some coordinates only.
    formula : Formula
        kappa as lines of Python; what compiled code is made of.
    inverse, sign, inverse_h0 : float
    base_weights, center : float64 arrays, shape (n,)
    eigen_factor : float64 array, shape (m, n)
        B.
    initial_distances_fn : callable or None
        ``initial_distances_fn(x)``: the squared distances of the point to begin at, where they may
        have been found before.
    """

    X: Array
    G: Array
    anchor: int | None
    linear: bool
    curvature: float
    scale: Array | None
    distances_fn: Callable[[Array], np.ndarray] | None
    formula: Formula
    inverse: float
    sign: float
    inverse_h0: float
    base_weights: np.ndarray
    center: np.ndarray
    eigen_factor: np.ndarray
    initial_distances_fn: Callable[[Array], np.ndarray] | None = None


class PredictedStep(NamedTuple):
    """One predicted step: mu and |w|^2 where it began; the point where it ended, the state vectors
    and, if known, squared distances there.
    """

    mean: Array | None
    noise_factor: float
    x: Array
    slots: tuple[Array, ...]
    distances: np.ndarray | None = None


class FusedSteps(ABC):
    """Predicted steps, each from where the one before ended."""

    @abstractmethod
    def next(self, mean: bool) -> PredictedStep | None:
        """The next step; None where it leaves the finite numbers. `mean` False: mu is not wanted,
        and may be None.

        What is handed out is the caller's: nothing of it is written or read again, except that the
        next step starts there.
        """


class Backend(ABC):
    """One array library. Instances have no state that influences results."""

    name: ClassVar[str]
    #: The namespace of the array library: numpy or cupy.
    xp: Any
    #: `squared_distances` and `pair_products` add up in one order: a distance has the same bits
    #: from both.
    same_summation_order: ClassVar[bool] = False
    #: Weighted sums of vectors are products of BLAS, which may share them out among its threads.
    blas: ClassVar[bool] = False
    #: A product has the same bits whatever other ones `difference_products` is asked for in the
    #: same call, and in either order of its factors: many calls may become one. Not so with BLAS,
    #: which adds up in an order that depends on the shape.
    batch_invariant_products: ClassVar[bool] = False

    def ignore_fp_warnings(self) -> AbstractContextManager[None]:
        """A context for many operations in a row: what keeps each of them from warning is then done
        once.
        """
        return nullcontext()

    def release(self) -> None:  # noqa: B027  (nothing to do is an answer)
        """Give memory that is kept for the next vectors back to the system; called when an engine
        is gone.
        """

    # -- arrays ------------------------------------------------------------------------------------

    @abstractmethod
    def copy_in(self, x: Array, dtype: Any) -> Array:
        """A new array of `dtype` on this backend's device, never an alias of `x`."""

    @abstractmethod
    def to_host(self, x: Array) -> np.ndarray:
        """`x` as a NumPy array; may alias when it already is one."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array."""

    @abstractmethod
    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros."""

    @abstractmethod
    def read_only(self, x: Array) -> Array:
        """A view of `x` that user code cannot write (a copy where the library has no such views)."""

    # -- reductions over d -------------------------------------------------------------------------

    @abstractmethod
    def dot(self, a: Array, b: Array) -> float:
        """sum_k a_k b_k."""

    @abstractmethod
    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        """sum_k ((a_k - b_k) / scale_k)^2, from differences: the expansion |a|^2 + |b|^2 - 2ab
        loses every digit between close iterates.
        """

    @abstractmethod
    def max_abs(self, x: Array) -> float:
        """max_k |x_k|; nan if any entry is nan."""

    @abstractmethod
    def all_finite(self, x: Array) -> bool:
        """True if no entry is nan or infinite."""

    # -- history -----------------------------------------------------------------------------------

    @abstractmethod
    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        """Host float64, shape (n,): sum_k ((rows_ik - x_k) / scale_k)^2 for every row, from
        differences.
        """

    def pairwise_distances(
        self, rows: Array, points: Sequence[Array], scale: Array | None = None
    ) -> np.ndarray:
        """Host float64, shape (m, n): `squared_distances` of m points, bit for bit."""
        return np.array([self.squared_distances(rows, x, scale) for x in points]).reshape(
            len(points), len(rows)
        )

    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        """Host float64, shape (m, n): sum_k ((rows_ik - rows_ak) / scale_k)^2 for the m rows a at
        the indices `new` and every row i.

        With `inverse` times the scale, for gradients; either is one of the first two answers of
        `pair_products`.
        """
        D, E, _ = self.pair_products(rows, rows, new, scale)
        return E if inverse else D

    @abstractmethod
    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(D, E, M), each host float64 of shape (m, n): what the m rows at the indices `new` have
        to do with every row, in one reading of X and G.

        With r = new_a: D_ai = sum_k ((X_ik - X_rk) / scale_k)^2;  E_ai = sum_k (scale_k (G_ik -
        G_rk))^2, *multiplied* by the scale, since a gradient has the inverse units of its
        parameter;  M_ai = sum_k (G_ik - G_rk)(X_ik - X_rk), in which the scale cancels. No scale is
        a scale of one.
        """

    @abstractmethod
    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        """One weighted sum of rows, shape (d,), in the dtype of `rows`, accumulated in float64.

        rows_r + sum_i w_i (rows_i - rows_r) with r = `anchor`; sum_i w_i rows_i when `anchor` is
        None. The anchored form keeps its digits when the weights are large and sum to one (|w|_1
        reached 200).
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

        weighted_sum(G, w, r) + curvature / scale^2 (x - weighted_sum(X, w, r)); the second term,
        and all reading of `X`, is left out when curvature is 0.
        """

    def difference_products(
        self, A: Array | Sequence[Array], a: np.ndarray, B: Array | Sequence[Array], b: np.ndarray
    ) -> np.ndarray:
        """Host float64, shape (p, q): sum_k (A_{a_i0} - A_{a_i1})_k (B_{b_j0} - B_{b_j1})_k for
        index pairs `a` (p, 2) and `b` (q, 2); -1 is nothing.

        A and B are rows, or sequences of vectors and of rows, which count one after the other. The
        differences are taken in float64 before anything is multiplied.
        """
        xp = self.xp
        left, right = (rows if hasattr(rows, "shape") else xp.vstack(list(rows)) for rows in (A, B))  # type: Any, Any
        d = left.shape[1]
        for rows, pairs in ((left, a), (right, b)):
            if len(pairs) and pairs.max() >= len(rows):  # CuPy would take another row
                raise IndexError(f"pairs of rows out of bounds for {len(rows)} rows")
        total = xp.zeros((len(a), len(b)))
        with self.ignore_fp_warnings():
            for low in range(0, d, width := max(1_024, 65_536 // max(1, len(a)))):
                one = _differences(xp, left[:, low : low + width], a)
                total += (
                    one
                    @ (
                        one
                        if A is B and a is b
                        else _differences(xp, right[:, low : low + width], b)
                    ).T
                )
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
        """Several sums of vectors in one pass: k arrays of shape (d,), dtype of `G`, accumulated in
        float64.

        out_j = sum_e A_je extras_e + sum_i P_ji (X_i - X_r) + sum_i Q_ji (G_i - G_r) with r =
        `anchor`; weights are host float64, P and Q of shape (k, rows used of X and G), A of shape
        (k, extras). X None: no second sum.
        """
        xp, d = self.xp, G.shape[1]
        weights = [(side, xp.asarray(w)) for side, w in ((X, P), (G, Q)) if side is not None]
        A = xp.asarray(A)
        out = [self.empty(d, G.dtype) for _ in A]
        with self.ignore_fp_warnings():
            for low in range(0, d, width := max(1_024, 65_536 // max(1, Q.shape[1]))):
                s = slice(low, low + width)
                total = A @ xp.stack([e[s] for e in extras]).astype(xp.float64)
                for side, w in weights:
                    total += w @ xp.subtract(
                        side[: w.shape[1], s], side[anchor, s], dtype=xp.float64
                    )
                for row, piece in zip(out, total, strict=True):
                    row[s] = piece
        return out

    # -- coefficients, which live on the host ------------------------------------------------------

    def subspace_rollout(
        self,
        lines: tuple[str, ...],
        result: str,
        constant: bool,
        rule: Rule,
        slots: int,
        scalars: int,
    ) -> SubspaceRolloutFunction | None:
        """A compiled walk of predicted steps on coefficients; None where nothing is compiled, and
        they are taken one by one.

        Parameters
        ----------
        lines, result : tuple of str, str
            The kernel's `complement` if `constant`, else its `profile`, as `fusion.formula` gives
            it.
        constant : bool
            The weights sum to one.
        rule : Rule
            Of the optimizer, with so many `slots` and `scalars`.

        Returns
        -------
        callable or None
            ``walk(K, rows, ages, thetas, gradients, centre, transposed, numbers, scalars, points,
            slots, means, lefts) -> steps``: see reading.py for the first five, gram.py for the next
            two; `numbers` are 1 / length^2, 1 / h0, the curvature and the largest finite squared
            length; `scalars` (S, .) are those of each step; it goes on from ``points[0]``,
            ``slots[0]`` in arrays of S + 1, until a point is not finite.
        """
        return None

    # -- elementwise -------------------------------------------------------------------------------

    @abstractmethod
    def apply(
        self,
        rule: Rule,
        arrays: Sequence[Array],
        scalars: Sequence[float],
        into: Sequence[int] = (),
    ) -> tuple[Array, ...]:
        """Run ``rule(xp)(*arrays, *scalars)`` elementwise; returns new arrays. Scalars are cast to
        the arrays' dtype once.

        Parameters
        ----------
        rule : Rule
        arrays : sequence of arrays, each of shape (d,), of one dtype
        scalars : sequence of float
        into : sequence of int
            For each result an array, by its index, that nobody will read again: the result may take
            its memory. A backend does so with all of them or none, and with none where one is
            read-only, not contiguous, or shares memory with another of `arrays`. No bit depends on
            it.
        """

    def fused_steps(
        self,
        rule: Rule,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: Sequence[Sequence[float]],
        *,
        sure: bool = True,
    ) -> FusedSteps | None:
        """Steps of an elementwise rule with the gradients of an estimate, as `predict` and `apply`
        take them one by one, to rounding.

        Parameters
        ----------
        rule : Rule
        field : Field
        x, slots : arrays, each of shape (d,), of the dtype of the rows
        scalars : sequence of sequences of float
            Those of the rule, for every step that may be asked for.
        sure : bool
            All are likely to be. No bit depends on it.

        Returns
        -------
        FusedSteps or None
            None: this backend takes them one by one.
        """
        return None

    @abstractmethod
    def axpy(self, a: float, x: Array, y: Array) -> Array:
        """a x + y, a new array."""

    @abstractmethod
    def clip(self, x: Array, low: Array | float, high: Array | float) -> Array:
        """min(max(x, low), high), a new array; nan stays nan."""

    @abstractmethod
    def mean(self, vectors: Sequence[Array]) -> Array:
        """The mean of vectors of shape (d,), accumulated in float64 in the order given, a new array
        of their dtype.

        Taken around the first, so that the mean of equal vectors is that vector.
        """


# -- rules of operations that compiled backends need no kernel of their own for --------------------


def _differences(xp: Any, rows: Array, pairs: np.ndarray) -> Array:
    """Rows minus rows in float64; -1 in a pair stands for nothing."""
    out = rows[xp.asarray(pairs[:, 0])].astype(xp.float64)
    some = np.flatnonzero(pairs[:, 1] >= 0)
    if len(some) == len(pairs):
        out -= rows[xp.asarray(pairs[:, 1])]
    elif len(some):
        out[xp.asarray(some)] -= rows[xp.asarray(pairs[some, 1])]
    return out


def axpy_rule(_xp: Any) -> Any:
    """The rule of a x + y."""

    def step(x, y, a):  # type: ignore[no-untyped-def]
        return (a * x + y,)

    return step


def clip_rule(xp: Any) -> Any:
    """The rule of min(max(x, low), high)."""

    def step(x, low, high):  # type: ignore[no-untyped-def]
        return (xp.minimum(xp.maximum(x, low), high),)

    return step
