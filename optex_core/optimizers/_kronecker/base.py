"""Optimizers with a matrix for each axis of a tensor: settings, state, and the course of a step."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from optex_core._validation import (
    BOOLEAN,
    boolean,
    check_fields,
    checked_by,
    integer,
    one_of,
    plain_value,
    short_repr,
)
from optex_core.backends import for_array
from optex_core.backends._memory import Scratch
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_DOT_UNTHREADED,
    MAX_GEMM_UNTHREADED,
    blas_single_threaded,
)
from optex_core.errors import ArgumentError, ArgumentTypeError, did_you_mean
from optex_core.optimizers._kronecker.blocking import SIDES, BlockLayout, BlockRules, make_layout
from optex_core.optimizers._kronecker.cost_estimate import CostEstimate, estimate_cost
from optex_core.optimizers._kronecker.matrix_jobs import MatrixService
from optex_core.optimizers._kronecker.refresh import leave_out, update_statistics
from optex_core.optimizers.base import Optimizer
from optex_core.optimizers.parameter_blocks import Block, blocks_from_shapes
from optex_core.optimizers.schedules import LearningRate, check_rate, initial_state, rate_at
from optex_core.types import Array

#: The default of a setting whose value the preset gives.
BY_PRESET: Any = None


def mean_rule(xp):
    return lambda g, m, keep, rest: (keep * m + rest * g,)


def decay_rule(xp):
    return lambda x, u, keep: (keep * x - u,)


@dataclass(frozen=True, slots=True)
class KroneckerState:
    """The state, jobs in flight included: arrays and integers."""

    t: int  # steps taken: schedules and bias corrections of the moments count these
    seen: int  # trusted steps: statistics, intervals, delays and the start count these
    updates: int  # of the statistics
    slots: tuple[Array, ...]  # (d,): the moments
    schedule: tuple[float, ...]
    statistics: Array  # (packed_entries,): a lower triangle for each factor, one after the other
    #: For each stack, for each preconditioned axis: roots or bases, (tiles, n, n).
    matrices: tuple[tuple[Array, ...], ...]
    versions: tuple[int, ...]  # for each factor the trusted step of its root's statistics, or 0
    born: Array  # (factors,), int64: the update that was the first with a gradient, or 0
    traces: Array  # (factors,), float64: of the mean statistics in the last job of each, or 0
    pending: tuple[Array | None, ...]  # jobs in flight: that of trusted step s at s % delay
    due: tuple[Array | None, ...]  # int64: the factors of each
    rejected: int = 0  # matrices that missed their residual: the earlier one stayed
    skipped: int = 0  # gradients or Gram matrices that were not finite: left out
    skipped_in_a_row: int = 0  # trusted gradients


@dataclass(frozen=True, slots=True)
class KroneckerOptimizer(Optimizer):
    """Base of `Shampoo` and `SOAP`: settings, state, step and report; they give the `move`.

    Names in parentheses are the field's (Google's or Meta's implementation of Shampoo).

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive.
    shapes : dict, list or None, default None
        Named shapes of the tensors in the flat vector, in order: ``{"w": (256, 128), "b": (9,)}``,
        a list of shapes, of (name, shape), or ``unflatten.shapes`` of `optex_core.flatten`. None:
        one axis of length d, cut into blocks.
    preset : {"small", "large"}, default "small"
        The values of the settings whose default is None: for networks whose gradients take as long
        as the steps and for some hundred steps, or for layers of a thousand and thousands of steps.
        Settings that are given take precedence.
    block_size : int, default None
        (max_preconditioner_dim) 128, large 1024. Longer axes are cut into tiles of so many and one
        of what is left over; nothing is padded.
    max_axis : int, default 8192
        (skip_preconditioning_dim_size_gt) A longer axis is neither cut nor preconditioned: an
        embedding of 32,000 x 512 keeps the side of 512, as in the papers. A tensor without any
        other axis has no matrix at all.
    merge : {"right", "left", "none"}, default "right"
        (merge_small_dims) From which end neighbouring axes are merged while their product is at
        most `block_size` and more than two axes are left: "right" for kernels stored (out, in, h,
        w), "left" for (h, w, in, out).
    sides : {"both", "left", "right", "none"}, default "both"
        (preconditioner_type) All axes, all but the last, the last alone, or no matrix at all.
    vectors : bool, default True
        (precondition_1d) Tensors of one axis have a matrix too. Single numbers never have.
    overrides : dict or None, default None
        Other rules for some tensors by name or path: ``{"layers[0].weight": {"sides": "right"}}``;
        rules are block_size, max_axis, merge, sides, vectors, with Shampoo exponent.
    start : int, default None
        (start_preconditioning_step) The trusted step by which all matrices are there; 1, large 101
        with Shampoo.
    statistics_interval : int, default 1
        (statistics_compute_steps) Trusted steps between updates of the statistics.
    interval : int, default None
        (precondition_frequency) Trusted steps between jobs of a factor; 10, large 20 with Shampoo.
        A factor whose statistics begin, or grow tenfold, between its turns gets one at once.
    spread : bool, default True
        Each factor has its own step of the interval, balanced by cost. False: all at the same ones,
        the first at start - delay, then at every multiple of the interval, as in Meta's.
    delay : int, default None
        Trusted steps from the statistics to the use of their matrix; 0, large 5. 0: it is used in
        the step of its statistics.
    packed_dtype : {"float32", "float64"} or None, default None
        (factor_matrix_dtype) Precision of statistics, matrices and block products; None: that of x.
        Statistics are stored as one triangle; jobs are computed in float64.
    max_skipped : int or None, default 20
        Trusted gradients in a row that are not finite before an `EvaluationError`; each is left out
        until then. None: no limit. A loss scaler that begins at 2^16 and halves itself skips up to
        16 in a row.
    decay : float
        (weight_decay) Decoupled, multiplied by the rate, as in `AdamW`.
    roots : MatrixService or None, default None
        Computes jobs in the background; None: here, when they are due. Not part of a saved run.
    """

    #: Setting -> its value with the preset "small", and with "large", where it is None.
    PRESETS: ClassVar[dict[str, tuple[Any, Any]]] = {}
    #: Settings that a tensor may have of its own.
    RULES: ClassVar[tuple[str, ...]] = ("block_size", "max_axis", "merge", "sides", "vectors")
    #: How many times a step multiplies all tiles by their matrices.
    contractions: ClassVar[int] = 1
    #: The fewest gradients in a statistic that a matrix is made of.
    gradients: ClassVar[int] = 1

    learning_rate: LearningRate = 1e-3
    shapes: Any = None
    preset: str = field(default="small", metadata=checked_by(one_of, options=("small", "large")))
    block_size: int = BY_PRESET
    max_axis: int = 8192
    merge: str = "right"
    sides: str = "both"
    vectors: bool = True
    overrides: Any = None
    start: int = field(default=BY_PRESET, metadata=checked_by(integer, low=1))
    statistics_interval: int = field(default=1, metadata=checked_by(integer, low=1))
    interval: int = field(default=BY_PRESET, metadata=checked_by(integer, low=1))
    spread: bool = field(default=True, metadata=BOOLEAN)
    # The state has a place for each step of the delay.
    delay: int = field(default=BY_PRESET, metadata=checked_by(integer, low=0, high=10**6))
    packed_dtype: str | None = None
    max_skipped: int | None = 20
    # Who computes is no part of what is computed: saved runs, comparisons and hashes leave it out.
    roots: MatrixService | None = field(
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
        for name, values in self.PRESETS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, values[self.preset == "large"])
        check_rate("learning_rate", self.learning_rate)
        check_fields(self)
        if self.packed_dtype is not None:
            one_of("packed_dtype", self.packed_dtype, ("float32", "float64"))
        if self.max_skipped is not None:
            integer("max_skipped", self.max_skipped, low=1)
        if self.roots is not None and not isinstance(self.roots, MatrixService):
            raise ArgumentTypeError(
                f"roots must be an optex_core.RootPool(...), an object with submit and "
                f"result, or None, got {short_repr(self.roots)}"
            )
        tensors = () if self.shapes is None else blocks_from_shapes(self.shapes)
        if tensors:  # plain tuples: hashable, and a file can hold them
            object.__setattr__(self, "shapes", tuple((t.name, t.shape) for t in tensors))
        if self.overrides is not None:
            object.__setattr__(self, "overrides", self._plain_overrides(tensors))
        for tensor in (None, *(t.name for t in tensors)):
            self.check_rules(self.rules_of(tensor))

    # What the optimizers differ in.

    @property
    @abstractmethod
    def statistics_decay(self) -> float:
        """Decay of the statistics, in (0, 1]; 1 sums."""

    @property
    @abstractmethod
    def moments(self) -> int:
        """The number of state vectors of length d."""

    @property
    def divides_by_weight(self) -> bool:
        """True if jobs hold mean statistics: divided by the sum of their weights."""
        return False

    @property
    def iterates(self) -> bool:
        """True if jobs hold the bases before, from which they step."""
        return False

    @abstractmethod
    def ridge_in(self, dtype: DTypeLike) -> float:
        """The ridge of the roots, or the floor of the bases, of matrices stored in `dtype`."""

    def solver_of(self, on_gpu: bool) -> str:
        """The solver of a job whose arrays are there."""
        return "eigh"

    @abstractmethod
    def move(
        self,
        work: Workspace,
        x: Array,
        g: Array,
        before: KroneckerState,
        state: KroneckerState,
        rate: float,
    ) -> tuple[Array, tuple[Array, ...]]:
        """The next x and the next slots. `before` is the state before the step, `state` has the
        statistics and the matrices of g.
        """

    # The course of a run.

    def init(self, x: Array, *, backend: Backend | None = None) -> KroneckerState:
        """The state before the first step: zeros for roots, identities for bases."""
        backend = backend or for_array(x)
        layout, dtype = self.layout(len(x)), self.state_dtype(x)
        try:
            statistics = backend.zeros(layout.packed_entries, dtype)
            matrices = []
            for stack in layout.stacks:
                sizes = [stack.tile[axis] for axis in stack.axes]
                found = tuple(backend.zeros((stack.number, n, n), dtype) for n in sizes)
                if not stack.p:
                    for bases in found:
                        bases[...] = backend.xp.eye(bases.shape[-1])
                matrices.append(found)
            slots = tuple(backend.zeros(len(x), x.dtype) for _ in range(self.moments))
        except (MemoryError, ValueError) as error:
            # ValueError: NumPy's, for sizes beyond any address
            needed = estimate_cost(self, layout, np.dtype(x.dtype))
            raise ArgumentError(
                f"the state takes {needed.bytes / 1e9:.3g} GB, more than there is; "
                f"pass a smaller block_size, sides='left', or vectors=False, "
                "and see optimizer.plan()"
            ) from error
        return KroneckerState(
            t=0,
            seen=0,
            updates=0,
            slots=slots,
            schedule=initial_state(self.learning_rate),
            statistics=statistics,
            matrices=tuple(matrices),
            versions=(0,) * len(layout.factors),
            born=np.zeros(len(layout.factors), np.int64),
            traces=np.zeros(len(layout.factors)),
            pending=(None,) * self.delay,
            due=(None,) * self.delay,
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: KroneckerState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, KroneckerState]:
        """Statistics of a trusted g, then `move`; a g that is not finite is left out."""
        backend = backend or for_array(x)
        xp, layout = backend.xp, self.layout(len(x))
        name = xp.__name__
        scratch = self._scratch.get(name) or self._scratch.setdefault(name, Scratch(xp))
        work = Workspace(self, backend, layout, self.state_dtype(x), scratch)
        if g.dtype != x.dtype:
            g = backend.copy_in(g, x.dtype)
        small = layout.largest_product <= MAX_GEMM_UNTHREADED and len(x) <= MAX_DOT_UNTHREADED
        most = 0 if small else max(len(x), layout.packed_entries)
        with blas_single_threaded(most), backend.ignore_fp_warnings():
            if not backend.all_finite(g):
                return backend.copy_in(x, x.dtype), leave_out(work, g, state, trusted)
            rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
            before = state
            if trusted and layout.factors:
                state = update_statistics(work, g, state)
            x, slots = self.move(work, x, g, before, state, rate)
        return x, replace(state, t=state.t + 1, slots=slots, schedule=schedule)

    def report(self, state: KroneckerState) -> dict[str, object]:
        """Counts of a run, and the age of its roots (of SOAP: bases) in trusted steps.

        Keys: steps, trusted, updates (of the statistics), roots (those in use), pending (jobs in
        flight), oldest (age of the oldest root in use, None without any) and its tensor, waiting
        (tensors with tiles that step by their graft, or Adam, until their roots are there),
        rejected, skipped.
        """
        tensors = ["x"] * len(state.versions)
        if self.shapes is not None:
            layout = self.layout(sum(math.prod(shape) for _, shape in self.shapes))
            tensors = [layout.tensors[layout.group_of(f).tensor].label for f in layout.factors]
        ages = [state.seen - version if version else None for version in state.versions]
        oldest = max((age for age in ages if age is not None), default=None)
        return {
            "steps": state.t,
            "trusted": state.seen,
            "updates": state.updates,
            "roots": sum(age is not None for age in ages),
            "pending": sum(job is not None for job in state.pending),
            "oldest": oldest,
            "oldest_tensor": None if oldest is None else tensors[ages.index(oldest)],
            "waiting": list(
                dict.fromkeys(t for t, age in zip(tensors, ages, strict=True) if age is None)
            ),
            "rejected": state.rejected,
            "skipped": state.skipped,
        }

    def plan(self, *, dtype: DTypeLike = np.float64, show: bool = True) -> CostEstimate:
        """Memory and work for the `shapes`, before anything is allocated: written to standard
        output (unless ``show=False``) and returned.
        """
        if self.shapes is None:
            kind = type(self).__name__
            raise ArgumentError(f"plan needs shapes: {kind}(shapes={{'w': (256, 128)}}).plan()")
        layout = self.layout(sum(t.size for t in blocks_from_shapes(self.shapes)))
        estimate = estimate_cost(self, layout, np.dtype(dtype))
        if show:
            sys.stdout.write(f"{estimate}\n")
        return estimate

    # What follows from the settings.

    def rules_of(self, tensor: str | None) -> BlockRules:
        """The rules of a tensor."""
        own = dict(dict(self.overrides or ()).get(tensor, ()))
        return BlockRules(**{rule: getattr(self, rule) for rule in self.RULES} | own)

    def check_rules(self, rules: BlockRules) -> None:
        """Refuse rules that cannot be."""
        boolean("vectors", rules.vectors)
        integer("block_size", rules.block_size, low=1)
        integer("max_axis", rules.max_axis, low=1)
        one_of("merge", rules.merge, ("right", "left", "none"))
        one_of("sides", rules.sides, SIDES)

    def layout(self, d: int) -> BlockLayout:
        """The blocks of a vector of length d."""
        layout = self._layouts.get(d)
        if layout is None:
            whole = (Block("x", 0, (d,)),)
            tensors = whole if self.shapes is None else blocks_from_shapes(self.shapes)
            total = sum(t.size for t in tensors)
            if total != d:
                many = ", ".join([*(t.label for t in tensors[:6]), "..."][: len(tensors)])
                raise ArgumentError(
                    f"shapes must cover the vector exactly: they have {total} entries in all "
                    f"({many}), x has {d}"
                )
            rules = tuple(self.rules_of(t.name) for t in tensors)
            layout = self._layouts[d] = make_layout(tensors, rules, self.interval, self.spread)
        return layout

    def state_dtype(self, x: Array) -> np.dtype[Any]:
        """The precision of statistics, roots and block products."""
        return np.dtype(self.packed_dtype or x.dtype)

    def _plain_overrides(
        self, tensors: tuple[Block, ...]
    ) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]:
        """The overrides as tuples of pairs, which a file can hold, by names."""
        paths, given, result = {t.path: t.name for t in tensors}, self.overrides, []
        try:
            for name, rules in list(given.items() if isinstance(given, Mapping) else given):
                own = dict(rules)
                result.append((paths.get(str(name), str(name)), own))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"overrides must be a dict like {{'w': {{'sides': 'right'}}}}, got "
                f"{short_repr(given)}"
            ) from error
        for name, own in result:
            for rule in own:
                if rule not in self.RULES:
                    raise ArgumentTypeError(
                        f"unknown rule {rule!r} for the tensor {name!r}"
                        f"{did_you_mean(str(rule), self.RULES)}"
                    )
            if name not in paths.values():
                raise ArgumentError(
                    f"overrides name the tensor {name!r}, which shapes do not "
                    f"have{did_you_mean(name, list(paths))}"
                )
        return tuple((n, tuple((r, plain_value(v)) for r, v in own.items())) for n, own in result)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Settings, backend and memory that the parts of a step share."""

    settings: KroneckerOptimizer
    backend: Backend
    layout: BlockLayout
    dtype: np.dtype[Any]  # of statistics, roots and block products
    scratch: Scratch
