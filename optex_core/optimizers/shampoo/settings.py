"""Settings of Shampoo, their validation, and the blocks that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optex_core._validation import (
    BOOLEAN,
    NONNEGATIVE_FINITE,
    POSITIVE,
    UNIT_INTERVAL,
    boolean,
    check_fields,
    checked_by,
    integer,
    one_of,
    plain_value,
    real,
    short_repr,
)
from optex_core.backends._scratch import Scratch
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentError, ArgumentTypeError, OptexError, did_you_mean
from optex_core.optimizers.base import Optimizer
from optex_core.optimizers.parameter_blocks import Block, blocks_from_shapes
from optex_core.optimizers.schedules import LearningRate, check_rate
from optex_core.optimizers.shampoo.blocking import (
    SIDES,
    BlockLayout,
    BlockRules,
    check_size,
    make_layout,
)
from optex_core.optimizers.shampoo.grafting import GRAFTS
from optex_core.optimizers.shampoo.root_service import RootService
from optex_core.types import Array

#: Settings that a tensor may have of its own.
OVERRIDABLE_RULES = ("block_size", "max_axis", "merge", "sides", "exponent", "vectors")


@dataclass(frozen=True, slots=True)
class ShampooSettings(Optimizer):
    """Settings of `Shampoo`; abstract: the steps are there.

    Names in parentheses are the field's (Google's or Meta's implementation).

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive. In units of x (grafts adam, rmsprop, adagrad), of x over the gradient (sgd), or of
        the preconditioned gradient (none).
    shapes : dict, list or None, default None
        Named shapes of the tensors in the flat vector, in order: ``{"w": (256, 128), "b": (9,)}``,
        a list of shapes, of (name, shape), or ``unflatten.shapes`` of `optex_core.flatten`. None:
        one axis of length d, cut into blocks: full-matrix Adagrad per block.
    momentum : float, default 0.9
        In [0, 1).
    placement : {"before", "after"}, default "before"
        The running mean of the gradients is preconditioned, with its bias corrected (Meta's; with
        graft adam its b1), or the preconditioned updates are summed (the paper and Google's).
    nesterov : bool, default False
        Needs momentum after.
    b2 : float, default 0.99
        Decay of the statistics, in (0, 1]; 1 sums, as in the paper. Keep the interval below about
        0.1 / (1 - b2): at b2 = 0.95 others saw 100 fail to converge.
    graft : {"adam", "rmsprop", "adagrad", "sgd", "none"}, default "adam"
        Whose length an update has. With nothing preconditioned the steps *are* that optimizer's,
        bit for bit: ``Adam(rate, b1=momentum)`` with momentum before, ``SGD(rate, momentum,
        nesterov)`` and ``RMSprop(rate, alpha=graft_b2, momentum=momentum)`` after, and
        ``Adagrad(rate)`` with momentum 0. Graft adam with momentum after has b1 = 0.
    graft_b2 : float, default 0.999
        Decay of the accumulator of adam and rmsprop (Meta's; Google's JAX code has `b2` for both).
    graft_eps : float or None, default None
        Added outside its root; None: 1e-8 for adam and rmsprop, 1e-10 for adagrad.
    scope : {"tensor", "block"}, default "tensor"
        Lengths are taken over a whole tensor (the paper and Google's) or over each tile (Meta's).
    decay : float, default 0
        Decoupled weight decay, multiplied by the rate, as in `AdamW`.
    ridge : float, default 1e-6
        (epsilon) Relative to the largest eigenvalue of each factor (Google's; an absolute one
        amplified rounding noise 35-fold), at least 8 eps of the state's dtype; never added into the
        statistics.
    bias_correction : bool, default True
        Divide statistics by 1 - b2^u before the root (Meta's; Google leaves it to the graft).
        Without effect on a graft other than none.
    block_size : int, default 128
        Longer axes are cut into tiles of so many and one of what is left over; nothing is padded.
    max_axis : int, default 8192
        (max_preconditioner_dim) A longer axis is neither cut nor preconditioned: an embedding of
        32,000 x 512 keeps the side of 512 (p = 2), as in the paper. A tensor without any other axis
        keeps its graft alone.
    merge : {"right", "left", "none"}, default "right"
        (merge_small_dims) From which end neighbouring axes are merged while their product is at
        most `block_size` and more than two axes are left: "right" for kernels stored (out, in, h,
        w), "left" for (h, w, in, out).
    sides : {"both", "left", "right", "none"}, default "both"
        All axes, all but the last, the last alone, or no preconditioning.
    exponent : int or None, default None
        p in place of 2k, k the number of preconditioned axes (Meta counts all axes of the block).
    vectors : bool, default True
        Tensors of one axis are preconditioned too. Single numbers never are.
    overrides : dict or None, default None
        Other rules for some tensors by name: ``{"embedding": {"sides": "right"}}``; rules are
        block_size, max_axis, merge, sides, exponent, vectors.
    start : int, default 1
        (start_preconditioning_step) The trusted step from which on updates are preconditioned;
        before it the graft steps alone. A tensor waits for all of its roots, which are submitted at
        start - delay at the latest; from a start of interval + delay on, no step begins them all.
    ramp : int, default 0
        From the start on go over from the graft's update to the preconditioned one in so many
        trusted steps.
    statistics_interval : int, default 1
        (statistics_compute_steps) Trusted steps between updates of the statistics.
    interval : int, default 10
        (precondition_frequency) Trusted steps between roots of a factor.
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
        Computes roots in the background; None: here, when they are due. Not part of a saved run.
    """

    learning_rate: LearningRate = 1e-3
    shapes: Any = None
    momentum: float = field(default=0.9, metadata=UNIT_INTERVAL)
    placement: str = field(
        default="before", metadata=checked_by(one_of, options=("before", "after"))
    )
    nesterov: bool = field(default=False, metadata=BOOLEAN)
    b2: float = field(default=0.99, metadata=checked_by(real, low=0.0, high=1.0, open_low=True))
    graft: str = field(default="adam", metadata=checked_by(one_of, options=GRAFTS))
    graft_b2: float = field(default=0.999, metadata=UNIT_INTERVAL)
    graft_eps: float | None = None
    scope: str = field(default="tensor", metadata=checked_by(one_of, options=("tensor", "block")))
    decay: float = field(default=0.0, metadata=NONNEGATIVE_FINITE)
    ridge: float = field(default=1e-6, metadata=POSITIVE)
    bias_correction: bool = field(default=True, metadata=BOOLEAN)
    block_size: int = 128
    max_axis: int = 8192
    merge: str = "right"
    sides: str = "both"
    exponent: int | None = None
    vectors: bool = True
    overrides: Any = None
    start: int = field(default=1, metadata=checked_by(integer, low=1))
    ramp: int = field(default=0, metadata=checked_by(integer, low=0))
    statistics_interval: int = field(default=1, metadata=checked_by(integer, low=1))
    interval: int = field(default=10, metadata=checked_by(integer, low=1))
    spread: bool = field(default=True, metadata=BOOLEAN)
    # The state has a place for each step of the delay.
    delay: int = field(default=0, metadata=checked_by(integer, low=0, high=10**6))
    packed_dtype: str | None = None
    solver: str = field(
        default="auto", metadata=checked_by(one_of, options=("auto", "eigh", "newton"))
    )
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
        check_rate("learning_rate", self.learning_rate)
        if self.shapes is not None:  # plain tuples: hashable, and a file can hold them
            shapes = tuple((b.name, b.shape) for b in blocks_from_shapes(self.shapes))
            object.__setattr__(self, "shapes", shapes)
        check_fields(self)
        if self.nesterov and not (self.momentum and self.placement == "after"):
            raise ArgumentError(
                f"nesterov=True needs momentum > 0 and placement='after', got "
                f"momentum={self.momentum} and placement={self.placement!r}"
            )
        if self.graft_eps is not None:
            real("graft_eps", self.graft_eps, low=0.0, open_high=True)
        if self.packed_dtype is not None:
            one_of("packed_dtype", self.packed_dtype, ("float32", "float64"))
        if self.roots is not None and not isinstance(self.roots, RootService):
            raise ArgumentTypeError(
                f"roots must be an optex_core.RootPool(...), an object with submit and "
                f"result, or None, got {short_repr(self.roots)}"
            )
        object.__setattr__(self, "overrides", _as_overrides(self.overrides))
        known = [name for name, _ in self.shapes or ()]
        for name, _ in self.overrides or ():
            if name not in known:
                raise ArgumentError(
                    f"overrides name the tensor {name!r}, which shapes do not "
                    f"have{did_you_mean(name, known)}"
                )
        for name in (None, *known):
            _check_rules(self._rules(name))

    def _rules(self, tensor: str | None) -> BlockRules:
        own = dict(self.overrides or ()).get(tensor, ())
        return BlockRules(**{r: getattr(self, r) for r in OVERRIDABLE_RULES} | dict(own))

    def tensors(self, d: int | None = None) -> tuple[Block, ...]:
        """The tensors of a vector of length d; d is needed where no shapes were given."""
        if self.shapes is not None:
            return blocks_from_shapes(self.shapes)
        if d is None:
            raise ArgumentError(
                "plan needs shapes: Shampoo.plan({'w': (256, 128)}), or an optimizer "
                "that was made with shapes"
            )
        return (Block("x", 0, (d,)),)

    def cut(self, tensors: tuple[Block, ...]) -> BlockLayout:
        """The blocks of these tensors."""
        rules = tuple(self._rules(t.name) for t in tensors)
        return make_layout(tensors, rules, self.interval, self.spread)

    def layout(self, d: int) -> BlockLayout:
        """The blocks of a vector of length d."""
        layout = self._layouts.get(d)
        if layout is None:
            tensors = self.tensors(d)
            check_size(tensors, d)
            layout = self._layouts[d] = self.cut(tensors)
        return layout

    def workspace(self, x: Array, backend: Backend) -> Workspace:
        """The workspace of a step from `x`."""
        scratch = self._scratch.setdefault(backend.xp.__name__, Scratch(backend.xp))
        return Workspace(self, backend, self.layout(len(x)), self.state_dtype(x), scratch)

    def state_dtype(self, x: Array) -> np.dtype[Any]:
        """The precision of statistics, roots and block products."""
        return np.dtype(self.packed_dtype or x.dtype)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Settings, backend and memory that the parts of a step share."""

    settings: ShampooSettings
    backend: Backend
    layout: BlockLayout
    dtype: np.dtype[Any]  # of statistics, roots and block products
    scratch: Scratch


def _check_rules(rules: BlockRules) -> None:
    boolean("vectors", rules.vectors)
    integer("block_size", rules.block_size, low=1)
    integer("max_axis", rules.max_axis, low=1)
    one_of("merge", rules.merge, ("right", "left", "none"))
    one_of("sides", rules.sides, SIDES)
    if rules.exponent is not None:
        integer("exponent", rules.exponent, low=1, high=2**53)  # roots take it as a float


def _as_overrides(given: Any) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] | None:
    """As tuples of pairs, which a file can hold."""
    if given is None:
        return None
    pairs = given.items() if isinstance(given, Mapping) else given
    result = []
    try:
        for name, rules in pairs:
            items = rules.items() if isinstance(rules, Mapping) else rules
            chosen = tuple((str(rule), plain_value(value)) for rule, value in items)
            for rule, _ in chosen:
                if rule not in OVERRIDABLE_RULES:
                    raise ArgumentTypeError(
                        f"unknown rule {rule!r} for the tensor "
                        f"{name!r}{did_you_mean(rule, OVERRIDABLE_RULES)}"
                    )
            result.append((str(name), chosen))
    except OptexError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"overrides must be a dict like {{'w': {{'sides': 'right'}}}}, got {short_repr(given)}"
        ) from error
    return tuple(result)
