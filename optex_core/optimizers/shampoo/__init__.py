"""Distributed Shampoo."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from optex_core._validation import (
    boolean,
    integer,
    one_of,
    positive,
    real,
    short_repr,
    unit_interval,
)
from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.errors import ArgumentError, ArgumentTypeError, did_you_mean
from optex_core.optimizers.base import OPTIMIZERS, Optimizer, nonnegative_finite
from optex_core.optimizers.parameter_blocks import Block, blocks_from_shapes
from optex_core.optimizers.schedules import LearningRate, check_rate, initial_state, rate_at
from optex_core.optimizers.shampoo.block_rules import OVERRIDABLE_RULES, as_overrides, check_rules
from optex_core.optimizers.shampoo.blocking import (
    BlockLayout,
    BlockRules,
    Scratch,
    check_size,
    make_layout,
)
from optex_core.optimizers.shampoo.cost_estimate import CostEstimate, estimate_cost
from optex_core.optimizers.shampoo.grafting import GRAFTS
from optex_core.optimizers.shampoo.root_service import RootService
from optex_core.optimizers.shampoo.step import preconditioned_step
from optex_core.optimizers.shampoo.update_schedule import ShampooState, update_statistics
from optex_core.types import Array

logger = logging.getLogger("optex_core")


class _PlanDescriptor:
    """``Shampoo.plan(shapes)`` with the default settings, ``optimizer.plan()`` with its own."""

    def __get__(self, optimizer: Shampoo | None, kind: type[Shampoo]) -> Any:
        def plan(
            shapes: Any = None, *, dtype: Any = np.float64, workers: int = 1, show: bool = True
        ) -> CostEstimate:
            """Memory and work for these shapes, before anything is allocated: written to standard
            output (unless ``show=False``) and returned.
            """
            made = kind() if optimizer is None else optimizer
            tensors = made._tensors(None) if shapes is None else blocks_from_shapes(shapes)
            return estimate_cost(
                made,
                made._make_layout(tensors),
                np.dtype(dtype),
                integer("workers", workers, low=1),
                show,
            )

        return plan


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Shampoo(Optimizer):
    """Shampoo: gradients of matrices multiplied from each side by inverse roots of their own
    statistics; blocked, grafted, pipelined.

    For each tile G (a tensor block, cut where it is longer than `block_size`) and each axis i of k
    preconditioned ones, at *trusted* steps:

    H_i <- b2 H_i + (1 - b2) Gram_i(G) (b2 = 1: the sum);  P_i = (H_i / (1 - b2^u) + ridge
    lambda_max I)^(-1/p), p = 2k, after u updates.

    At every step, with h the gradient or its running mean:  D = h x_1 P_1 ... x_k P_k;  w = D
    |graft(h)| / |D|;  x <- (1 - rate decay) x - rate w, or with momentum after: v <- momentum v +
    w;  x <- (1 - rate decay) x - rate v.

    Roots are begun every `interval` trusted steps, each factor at its own step of the interval so
    that no step carries them all, from the statistics of that step, and used from exactly `delay`
    trusted steps later on. With ``roots=optex_core.RootPool(...)`` they are computed elsewhere
    meanwhile; the bits are the same as without. Predicted gradients (``trusted=False``) use the
    roots as they are.

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive. In units of x (grafts adam, rmsprop, adagrad), of x over the gradient (sgd), or of
        the preconditioned gradient (none).
    shapes : dict, list or None, default None
        Named shapes of the tensors in the flat vector, in order: ``{"w": (256, 128), "b":
        (128,)}``, a list of shapes, of (name, shape), or ``unflatten.shapes`` of
        `optex_core.flatten`. None: one axis of length d, cut into blocks: full-matrix Adagrad per
        block.
    momentum : float, default 0.9
        In [0, 1).
    placement : {"before", "after"}, default "before"
        The running mean of the gradients is preconditioned, with its bias corrected (Meta's
        implementation; with graft adam its b1), or the preconditioned updates are summed (the paper
        and Google's; SGD's momentum).
    nesterov : bool, default False
        Needs momentum after.
    b2 : float, default 0.99
        Decay of the statistics, in (0, 1]; 1 sums, as in the paper. The interval should stay below
        about 0.1 / (1 - b2): at b2 = 0.95 others saw 100 fail to converge.
    graft : {"adam", "rmsprop", "adagrad", "sgd", "none"}, default "adam"
        Whose length an update has. With nothing preconditioned the steps *are* that optimizer's,
        bit for bit: ``Adam(rate, b1=momentum)`` with momentum before, ``SGD(rate, momentum,
        nesterov)`` and ``RMSprop(rate, alpha=graft_b2, momentum=momentum)`` after,
        ``Adagrad(rate)`` with momentum 0. Graft adam with momentum after has no mean of its own (b1
        = 0).
    graft_b2 : float, default 0.999
        Decay of the accumulator of adam and rmsprop, apart from `b2` (as Meta has it; Google's JAX
        code has one for both).
    graft_eps : float or None, default None
        Added outside its root; None: 1e-8 for adam and rmsprop, 1e-10 for adagrad.
    scope : {"tensor", "block"}, default "tensor"
        Lengths are taken over a whole tensor (the paper and Google's) or over each tile (Meta's).
    decay : float, default 0
        Decoupled weight decay, multiplied by the rate, as in `AdamW`.
    ridge : float, default 1e-6
        Relative to the largest eigenvalue of each factor (Google's; an absolute one amplified
        rounding noise 35-fold), at least 8 eps of the state's dtype; never added into the
        statistics.
    bias_correction : bool, default True
        Divide statistics by 1 - b2^u before the root (Meta's; Google leaves it to the graft).
        Without effect on a graft other than none.
    block_size : int, default 128
        Longer axes are cut into tiles of so many and one of what is left over, each a problem of
        its own; nothing is padded.
    max_axis : int, default 8192
        A longer axis is neither cut nor preconditioned: an embedding of 32,000 x 512 keeps the side
        of 512 (p = 2), as in the paper; a tensor without any other axis keeps its graft alone.
    merge : {"right", "left", "none"}, default "right"
        From which end neighbouring axes are merged while their product is at most `block_size` and
        more than two axes are left: "right" for kernels stored (out, in, h, w), "left" for (h, w,
        in, out). Matrices stay matrices (the floor of Meta's rule; Google's merges further).
    sides : {"both", "left", "right", "none"}, default "both"
        All axes, all but the last, the last alone, or no preconditioning.
    exponent : int or None, default None
        p in place of 2k. k counts axes that are preconditioned (Google's; Meta counts all axes of
        the block).
    vectors : bool, default True
        Tensors of one axis are preconditioned too (Google's JAX and Meta's; others leave them to
        the graft). Single numbers never are.
    overrides : dict or None, default None
        Other rules for some tensors by name: ``{"embedding": {"sides": "right"}}``; rules are
        block_size, max_axis, merge, sides, exponent, vectors.
    start : int, default 1
        The trusted step from which on updates are preconditioned; before it the graft steps alone.
        A tensor waits for all of its roots, which are begun at start - delay at the latest; from a
        start of interval + delay on, no step begins them all. Others wait for 5 to 1000 steps;
        here, in 200 steps of a network on real data, an interval of 10 needed 100 steps from a
        start at 1, and 190 from one at 10, for what took Adam 200.
    ramp : int, default 0
        From the start on go over from the graft's update to the preconditioned one in so many
        trusted steps (Lingvo: as many as its start).
    statistics_interval : int, default 1
        Trusted steps between updates of the statistics.
    interval : int, default 10
        Trusted steps between roots of a factor.
    spread : bool, default True
        Each factor has its own step of the interval, balanced by cost. False: all at the same one,
        as in other implementations.
    delay : int, default 0
        Trusted steps from the statistics to the use of their root. 0: the gradient shapes its own
        preconditioner, as in the paper.
    packed_dtype : {"float32", "float64"} or None, default None
        Precision of statistics, roots and block products; None: that of x. Statistics are stored as
        one triangle; roots are computed in float64.
    solver : {"auto", "eigh", "newton"}, default "auto"
        Of the roots: eigendecomposition on the CPU, coupled Newton iteration where the arrays are
        (both float64), or that for CuPy arrays without `roots` and the other else.
    roots : RootService or None, default None
        Computes roots in the background; None: here, when they are due. No part of a saved run.

    Notes
    -----
    A gradient that is not finite is left out whole: x and the state stay, `report` counts it. A
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

    name: ClassVar[str] = "shampoo"
    plan: ClassVar[Any] = _PlanDescriptor()
    learning_rate: LearningRate = 1e-3
    shapes: Any = None
    momentum: float = 0.9
    placement: str = "before"
    nesterov: bool = False
    b2: float = 0.99
    graft: str = "adam"
    graft_b2: float = 0.999
    graft_eps: float | None = None
    scope: str = "tensor"
    decay: float = 0.0
    ridge: float = 1e-6
    bias_correction: bool = True
    block_size: int = 128
    max_axis: int = 8192
    merge: str = "right"
    sides: str = "both"
    exponent: int | None = None
    vectors: bool = True
    overrides: Any = None
    start: int = 1
    ramp: int = 0
    statistics_interval: int = 1
    interval: int = 10
    spread: bool = True
    delay: int = 0
    packed_dtype: str | None = None
    solver: str = "auto"
    # Who computes is no part of what is computed: saved runs, comparisons and hashes leave it out.
    roots: RootService | None = field(
        default=None, compare=False, repr=False, metadata={"runtime": True}
    )
    # What follows from the settings, and memory to work in: neither is a part of a run.
    _layouts: dict[int, BlockLayout] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _scratch: dict[str, Scratch] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        check_rate(self.learning_rate)
        if self.shapes is not None:  # plain tuples: hashable, and a file can hold them
            object.__setattr__(
                self, "shapes", tuple((b.name, b.shape) for b in blocks_from_shapes(self.shapes))
            )
        unit_interval("momentum", self.momentum)
        one_of("placement", self.placement, ("before", "after"))
        for name in ("nesterov", "bias_correction", "vectors", "spread"):
            boolean(name, getattr(self, name))
        if self.nesterov and not (self.momentum and self.placement == "after"):
            raise ArgumentError(
                f"nesterov=True needs momentum > 0 and placement='after', got "
                f"momentum={self.momentum} and placement={self.placement!r}"
            )
        real("b2", self.b2, low=0.0, high=1.0, open_low=True)
        one_of("graft", self.graft, GRAFTS)
        unit_interval("graft_b2", self.graft_b2)
        if self.graft_eps is not None:
            nonnegative_finite("graft_eps", self.graft_eps)
        one_of("scope", self.scope, ("tensor", "block"))
        nonnegative_finite("decay", self.decay)
        positive("ridge", self.ridge)
        for name, low in (("start", 1), ("ramp", 0), ("statistics_interval", 1), ("interval", 1)):
            integer(name, getattr(self, name), low=low)
        # the state has a place for each: these take 8 MB
        integer("delay", self.delay, low=0, high=10**6)
        if self.packed_dtype is not None:
            one_of("packed_dtype", self.packed_dtype, ("float32", "float64"))
        one_of("solver", self.solver, ("auto", "eigh", "newton"))
        if self.roots is not None and not isinstance(self.roots, RootService):
            raise ArgumentTypeError(
                f"roots must be an optex_core.RootPool(...), an object with submit and "
                f"result, or None, got {short_repr(self.roots)}"
            )
        check_rules(self.block_size, self.max_axis, self.merge, self.sides, self.exponent)
        object.__setattr__(self, "overrides", as_overrides(self.overrides))
        known = [name for name, _ in self.shapes or ()]
        for name, rules in self.overrides or ():
            if name not in known:
                raise ArgumentError(
                    f"overrides name the tensor {name!r}, which shapes do not "
                    f"have{did_you_mean(name, known)}"
                )
            check_rules(
                **{
                    **{
                        rule: getattr(self, rule) for rule in OVERRIDABLE_RULES if rule != "vectors"
                    },
                    **{k: v for k, v in rules if k != "vectors"},
                }
            )

    # -- the cut -----------------------------------------------------------------------------------

    def _tensors(self, d: int | None) -> tuple[Block, ...]:
        if self.shapes is None:
            if d is None:
                raise ArgumentError(
                    "plan needs shapes: Shampoo.plan({'w': (256, 128)}), or an "
                    "optimizer that was made with shapes"
                )
            return (Block("x", 0, (d,)),)
        return blocks_from_shapes(self.shapes)

    def _make_layout(self, tensors: tuple[Block, ...]) -> BlockLayout:
        overrides = {name: dict(rules) for name, rules in self.overrides or ()}
        general = {rule: getattr(self, rule) for rule in OVERRIDABLE_RULES}
        rules = tuple(BlockRules(**{**general, **overrides.get(t.name, {})}) for t in tensors)
        return make_layout(tensors, rules, self.interval, self.spread)

    def _layout(self, d: int) -> BlockLayout:
        layout = self._layouts.get(d)
        if layout is None:
            tensors = self._tensors(d)
            check_size(tensors, d)
            layout = self._layouts[d] = self._make_layout(tensors)
        return layout

    def _scratch_of(self, backend: Backend) -> Scratch:
        return self._scratch.setdefault(backend.xp.__name__, Scratch(backend.xp))

    def _packed(self, x: Array) -> np.dtype[Any]:
        return np.dtype(self.packed_dtype or x.dtype)

    # -- the optimizer -----------------------------------------------------------------------------

    def init(self, x: Array, *, backend: Backend | None = None) -> ShampooState:
        backend = backend or for_array(x)
        layout, dtype = self._layout(len(x)), self._packed(x)
        slots = bool(self.momentum) + GRAFTS[self.graft].slots
        try:
            statistics, roots = [], []
            for stack in layout.stacks:
                sizes = [stack.tile[axis] for axis in stack.axes]
                statistics.append(
                    tuple(backend.zeros((stack.number, n * (n + 1) // 2), dtype) for n in sizes)
                )
                roots.append(tuple(backend.zeros((stack.number, n, n), dtype) for n in sizes))
            vectors = tuple(backend.zeros(len(x), x.dtype) for _ in range(slots))
        except (MemoryError, ValueError) as error:
            # ValueError: NumPy's, for sizes beyond any address
            needed = estimate_cost(self, layout, np.dtype(x.dtype), 1, False)
            raise ArgumentError(
                f"the state takes {needed.bytes / 1e9:.3g} GB, more than there is; "
                f"pass a smaller block_size, sides='left', or vectors=False, "
                "and see optimizer.plan()"
            ) from error
        pending = (None,) * self.delay
        schedule = initial_state(self.learning_rate)
        return ShampooState(
            0,
            0,
            0,
            vectors,
            schedule,
            tuple(statistics),
            tuple(roots),
            (0,) * len(layout.factors),
            pending,
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: ShampooState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, ShampooState]:
        backend = backend or for_array(x)
        layout = self._layout(len(x))
        if g.dtype != x.dtype:
            g = backend.copy_in(g, x.dtype)
        with blas_single_threaded(len(x)):
            finite = backend.all_finite(g)
        if not finite:
            logger.warning(
                "Shampoo: a gradient that is not finite was left out at step %d; x, "
                "statistics and roots stay as they were",
                state.t,
            )
            return backend.copy_in(x, x.dtype), replace(state, skipped=state.skipped + 1)
        rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
        with blas_single_threaded(layout.packed_entries), backend.ignore_fp_warnings():
            if trusted and layout.factors:
                state = update_statistics(self, backend, layout, self._packed(x), g, state)
            x, slots = preconditioned_step(self, backend, layout, x, g, state, rate)
        return x, replace(state, t=state.t + 1, slots=slots, schedule=schedule)

    def report(self, state: ShampooState) -> dict[str, Any]:
        """What has happened: counts, and how old the roots are, in trusted steps.

        Keys: steps, trusted, updates (of the statistics), roots (those in use), pending (jobs in
        flight), oldest (age of the oldest root in use, None without any), rejected, skipped.
        """
        ages = [state.seen - version for version in state.versions if version]
        return {
            "steps": state.t,
            "trusted": state.seen,
            "updates": state.updates,
            "roots": len(ages),
            "pending": sum(job is not None for job in state.pending),
            "oldest": max(ages, default=None),
            "rejected": state.rejected,
            "skipped": state.skipped,
        }
