"""Distributed Shampoo."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from optex_core._validation import (
    BOOLEAN,
    NONNEGATIVE_FINITE,
    POSITIVE,
    UNIT_INTERVAL,
    checked_by,
    integer,
    one_of,
    real,
)
from optex_core.backends.types import Rule
from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.base import (
    BY_PRESET,
    KroneckerOptimizer,
    KroneckerState,
    Workspace,
    decay_rule,
    mean_rule,
)
from optex_core.optimizers._kronecker.blocking import BlockBatch, BlockRules
from optex_core.optimizers._kronecker.matrix_roots import MIN_RIDGE_IN_EPS
from optex_core.optimizers._kronecker.statistics import contract
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.types import Array


def scaled_rule(xp):
    return lambda h, rate: (rate * h,)


def adagrad_graft_rule(xp):
    def step(g, h, s, rate, eps):
        s = s + g * g
        return rate * h / (xp.sqrt(s) + eps), s

    return step


def adam_graft_rule(xp):
    def step(g, h, s, rate, eps, keep, rest, root):
        s = keep * s + rest * g * g
        return rate * h / (xp.sqrt(s) / root + eps), s

    return step


#: Grafts: the first-order optimizers whose length the update takes over, and which step alone where
#: nothing is preconditioned, with the bits of the optimizer of that name: (rule, eps outside its
#: root, (t, b2) -> what the rule takes after eps), None for steps along h. "none" leaves the
#: preconditioned update at its own length, as Google's JAX code does.
GRAFTS: dict[str, tuple[Rule, float, Callable[[int, float], tuple[float, ...]]] | None] = {
    "none": None,
    "sgd": None,
    "adagrad": (adagrad_graft_rule, 1e-10, lambda t, b2: ()),
    "rmsprop": (adam_graft_rule, 1e-8, lambda t, b2: (b2, 1 - b2, 1.0)),
    "adam": (adam_graft_rule, 1e-8, lambda t, b2: (b2, 1 - b2, math.sqrt(1 - b2**t))),
}


def velocity_rule(xp):
    def step(x, u, v, rate, momentum, keep):
        v = momentum * v + u
        return keep * x - rate * v, v

    return step


def nesterov_velocity_rule(xp):
    def step(x, u, v, rate, momentum, keep):
        v = momentum * v + u
        return keep * x - rate * (u + momentum * v), v

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Shampoo(KroneckerOptimizer):
    """Shampoo: gradients of matrices multiplied from each side by inverse roots of their own
    statistics; blocked, grafted, pipelined.

    For each tile G (a tensor block, cut where it is longer than `block_size`) and each axis i of k
    preconditioned ones, at *trusted* steps:

    H_i <- b2 H_i + (1 - b2) Gram_i(G) (b2 = 1: the sum);
    P_i = (H_i / (1 - b2^u) + ridge lambda_max I)^(-1/p), p = 2k, after u updates
    from the first that was not zero on.

    At every step, with h the gradient or its running mean:
    D = h x_1 P_1 ... x_k P_k;  w = D |graft(h)| / |D|;  x <- (1 - rate decay) x - rate w,
    or with momentum after: v <- momentum v + w;  x <- (1 - rate decay) x - rate v.

    Roots are started every `interval` trusted steps from the statistics of that step, each factor
    at its own step of the interval, and used from exactly `delay` trusted steps later on. With
    ``roots=optex_core.RootPool(...)`` they are computed elsewhere meanwhile, with the same bits.
    Predicted gradients (``trusted=False``) use the roots as they are.

    Names in parentheses are the field's (Google's or Meta's implementation).

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        (lr) Positive. In units of x (grafts adam, rmsprop, adagrad), of x over the gradient (sgd),
        or of the preconditioned gradient (none).
    momentum : float, default 0.9
        (beta1) In [0, 1).
    placement : {"before", "after"}, default "before"
        The running mean of the gradients is preconditioned, with its bias corrected (Meta's; with
        graft adam its b1), or the preconditioned updates are summed (the paper and Google's).
    nesterov : bool, default False
        (use_nesterov) Needs momentum after.
    b2 : float, default None
        (beta2) Decay of the statistics, in (0, 1]; 1 sums, as in the paper; 0.95, large 0.995. Keep
        the interval well below 1 / (1 - b2): at b2 = 0.95 others saw 100 fail to converge.
    graft : {"adam", "rmsprop", "adagrad", "sgd", "none"}, default "adam"
        (grafting) Whose length an update has. With nothing preconditioned the steps *are* that
        optimizer's, bit for bit: ``Adam(rate, momentum, graft_b2)`` with momentum before,
        ``SGD(rate, momentum, nesterov)`` and ``RMSprop(rate, alpha=graft_b2, momentum=momentum)``
        after, and ``Adagrad(rate)`` with momentum 0. Graft adam with momentum after has b1 = 0.
    graft_b2 : float, default None
        (grafting_config.beta2) Decay of the accumulator of adam and rmsprop; 0.95, large 0.999 (as
        Meta's; Google's JAX code has `b2` for both). At 0.95 the loss of a network was a third of
        that at 0.999 after 100 steps.
    graft_eps : float or None, default None
        (grafting_config.epsilon) Added outside its root; None: 1e-8 for adam and rmsprop, 1e-10 for
        adagrad.
    scope : {"tensor", "block"}, default "tensor"
        Lengths are taken over a whole tensor (the paper and Google's) or over each tile (Meta's).
    ridge : float, default 1e-6
        (epsilon) Relative to the largest eigenvalue of each factor (Google's; an absolute one
        amplified rounding noise 35-fold), at least 8 eps of the state's dtype; never added into the
        statistics.
    bias_correction : bool, default True
        (use_bias_correction) With graft none: divide statistics by 1 - b2^u before the root
        (Meta's; Google leaves it to the graft). With other grafts statistics are always divided by
        the sum of their weights: the length of a tensor is the graft's, and its tiles, whose roots
        have different ages, would otherwise be weighed by them.
    exponent : float or None, default None
        (inverse_exponent_override) p in place of 2k, k the number of preconditioned axes (Meta
        counts all axes of the block): roots are H^(-1/p), p >= 1 need be no integer.
    ramp : int, default 0
        (nondiag_preconditioner_warmup) From the start on go over from the graft's update to the
        preconditioned one in so many trusted steps.
    solver : {"auto", "eigh", "newton"}, default "auto"
        Of the roots: eigendecomposition on the CPU, coupled Newton iteration where the arrays are
        (both float64; integer p), or that for CuPy arrays without `roots` and the other else.

    Notes
    -----
    A gradient that is not finite is left out whole: x and the state stay, `report` counts it, and
    after `max_skipped` in a row it is an error. A tile without a root (no gradient yet, or its root
    on the way) steps by its graft; the others of its tensor share out what is left of the length. A
    root whose true residual |X^p A - I| exceeds 1e-3 is not published, the earlier one stays, and
    `report` counts it. Intended differences from the paper: it takes whichever root is ready; here
    the delay is exact. It pays where gradients are costly against 4 m n (m + n) flops per m x n
    tile, and for matrices; not for vectors without structure.

    References
    ----------
    Gupta, Koren, Singer, Shampoo: preconditioned stochastic tensor optimization, ICML 2018, arXiv
    1802.09568, algorithms 1 and 2; Anil, Gupta, Koren, Regan, Singer, Scalable second order
    optimization for deep learning, arXiv 2002.09018; Shi et al., A distributed data-parallel
    PyTorch implementation of the Distributed Shampoo optimizer, arXiv 2309.06497. "Google's" is
    google-research/precondition, "Meta's" facebookresearch/optimizers, "Lingvo" tensorflow/lingvo.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> target = np.outer([1.0, 100.0], [1.0, 10.0, 100.0])
    >>> optimizer = ox.Shampoo(0.5, shapes={"w": (2, 3)}, start=1, interval=1)
    >>> x = np.zeros(6)
    >>> state = optimizer.init(x)
    >>> for _ in range(20):
    ...     x, state = optimizer.step(x, x - target.ravel(), state)
    >>> optimizer.report(state)["roots"]
    2
    """

    name = "shampoo"
    # With "large" interval and start are those of AlgoPerf's JAX baseline, block_size is Meta's.
    PRESETS = {
        "b2": (0.95, 0.995),
        "graft_b2": (0.95, 0.999),
        "block_size": (128, 1024),
        "start": (1, 101),
        "interval": (10, 20),
        "delay": (0, 5),
    }
    RULES = (*KroneckerOptimizer.RULES, "exponent")

    momentum: float = field(default=0.9, metadata=UNIT_INTERVAL)
    placement: str = field(
        default="before", metadata=checked_by(one_of, options=("before", "after"))
    )
    nesterov: bool = field(default=False, metadata=BOOLEAN)
    b2: float = field(
        default=BY_PRESET, metadata=checked_by(real, low=0.0, high=1.0, open_low=True)
    )
    graft: str = field(default="adam", metadata=checked_by(one_of, options=GRAFTS))
    graft_b2: float = field(default=BY_PRESET, metadata=UNIT_INTERVAL)
    graft_eps: float | None = None
    scope: str = field(default="tensor", metadata=checked_by(one_of, options=("tensor", "block")))
    decay: float = field(default=0.0, metadata=NONNEGATIVE_FINITE)
    ridge: float = field(default=1e-6, metadata=POSITIVE)
    bias_correction: bool = field(default=True, metadata=BOOLEAN)
    exponent: float | None = None
    ramp: int = field(default=0, metadata=checked_by(integer, low=0))
    solver: str = field(
        default="auto", metadata=checked_by(one_of, options=("auto", "eigh", "newton"))
    )

    def __post_init__(self) -> None:
        KroneckerOptimizer.__post_init__(self)
        if self.nesterov and not (self.momentum and self.placement == "after"):
            raise ArgumentError(
                f"nesterov=True needs momentum > 0 and placement='after', got "
                f"momentum={self.momentum} and placement={self.placement!r}"
            )
        if self.graft_eps is not None:
            real("graft_eps", self.graft_eps, low=0.0, open_high=True)

    @property
    def statistics_decay(self) -> float:
        return self.b2

    @property
    def moments(self) -> int:
        return bool(self.momentum) + (GRAFTS[self.graft] is not None)

    @property
    def divides_by_weight(self) -> bool:
        return self.graft != "none" or (self.bias_correction and self.b2 < 1.0)

    def ridge_in(self, dtype: DTypeLike) -> float:
        return max(self.ridge, MIN_RIDGE_IN_EPS * float(np.finfo(dtype).eps))

    def solver_of(self, on_gpu: bool) -> str:
        if self.solver != "auto":
            return self.solver
        own = [dict(rules).get("exponent") for _, rules in self.overrides or ()]
        fractional = any(not float(p or 2).is_integer() for p in (self.exponent, *own))
        return "newton" if self.roots is None and on_gpu and not fractional else "eigh"

    def check_rules(self, rules: BlockRules) -> None:
        KroneckerOptimizer.check_rules(self, rules)
        p = rules.exponent
        if p is None:
            return
        p = real("exponent", p, low=1.0, high=2.0**53)  # roots take it as a float
        if self.solver == "newton" and not p.is_integer():
            raise ArgumentError(
                f"solver='newton' needs an integer exponent, got {p}; pass solver='eigh'"
            )

    def move(
        self,
        work: Workspace,
        x: Array,
        g: Array,
        before: KroneckerState,
        state: KroneckerState,
        rate: float,
    ) -> tuple[Array, tuple[Array, ...]]:
        backend, t, momentum = work.backend, state.t + 1, self.momentum
        h, scale, means = g, rate, list(state.slots[: bool(momentum)])
        after = bool(momentum) and self.placement == "after"
        if after:
            scale = 1.0  # the rate multiplies the velocity
        elif momentum:
            means = list(backend.apply(mean_rule, (g, *means), (momentum, 1.0 - momentum)))
            h, scale = means[0], rate / (1.0 - momentum**t)
        squares: list[Array] = []
        if graft := GRAFTS[self.graft]:
            graft_rule, eps, weights = graft
            eps = eps if self.graft_eps is None else self.graft_eps
            scalars = scale, eps, *weights(t, self.graft_b2)
            u, *squares = backend.apply(graft_rule, (g, h, state.slots[-1]), scalars)
        else:
            (u,) = backend.apply(scaled_rule, (h,), (scale,))
        if state.seen >= self.start and work.layout.active:
            _precondition(work, self, h, u, state, scale)
        keep = 1.0 - rate * self.decay
        if after:
            rule = nesterov_velocity_rule if self.nesterov else velocity_rule
            x, *means = backend.apply(rule, (x, u, *means), (rate, momentum, keep))
        else:
            (x,) = backend.apply(decay_rule, (x, u), (keep,))
        return x, (*means, *squares)


def _precondition(
    work: Workspace, s: Shampoo, h: Array, u: Array, state: KroneckerState, scale: float
) -> None:
    """Turn the graft's update `u`, in place, into the preconditioned one where roots are there."""
    backend, layout, scratch = work.backend, work.layout, work.scratch
    kept = None if all(state.versions) else _without_roots(work, state, u)
    if kept is not None:
        u -= kept
    share = min(1.0, (state.seen - s.start + 1) / s.ramp) if s.ramp else 1.0
    by_tile = s.scope == "block" and s.graft != "none"
    d = scratch.empty("direction", (len(h),), h.dtype)
    for stack, roots in zip(layout.stacks, state.matrices, strict=True):
        tiles = contract(scratch, stack, stack.gather(scratch, "tiles", h, work.dtype), roots)
        if by_tile:
            grafted = stack.gather(scratch, "grafted", u, work.dtype)
            tiles = _graft_norms(backend.xp, stack, tiles, grafted)
        stack.scatter(tiles, d)
    for index in layout.active:
        at = layout.tensors[index].slice
        new, old = d[at], u[at]
        if s.graft == "none" or s.scope == "block":
            factor, usable = scale if s.graft == "none" else 1.0, backend.all_finite(new)
        else:
            length = math.sqrt(backend.dot(new, new))
            factor = math.sqrt(backend.dot(old, old)) / (length or math.inf)
            usable = math.isfinite(length) and math.isfinite(factor)
        if not usable:
            continue  # beyond the range of the numbers: the graft's update is as good as any
        if share < 1.0:
            old *= u.dtype.type(1.0 - share)
            old += u.dtype.type(share * factor) * new
        else:
            backend.xp.multiply(new, u.dtype.type(factor), out=old)
    if kept is not None:
        u += kept


def _without_roots(work: Workspace, state: KroneckerState, u: Array) -> Array:
    """The entries of `u` in tiles that lack a root, whose direction is zero; zeros elsewhere."""
    kept = work.backend.zeros(len(u), u.dtype)
    for factor in work.layout.factors:
        if not state.versions[factor.index]:
            group = work.layout.group_of(factor)
            place = np.unravel_index(factor.tile - group.first, group.counts)
            group.view(kept)[place] = group.view(u)[place]
    return kept


def _graft_norms(xp: ModuleType, stack: BlockBatch, tiles: Array, grafted: Array) -> Array:
    """The tiles, each with the length of the graft's update."""
    axes = tuple(range(1, len(stack.tile) + 1))
    wanted, found = (xp.sqrt((a * a).sum(axes, keepdims=True)) for a in (grafted, tiles))
    return tiles * (wanted / xp.where(found > 0.0, found, 1.0))
