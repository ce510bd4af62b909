"""Settings that optimizers with a matrix for each axis share, their validation, and the blocks that
follow from them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

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
from optex_core.backends._scratch import Scratch
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentError, ArgumentTypeError, OptexError, did_you_mean
from optex_core.optimizers._kronecker.blocking import (
    SIDES,
    BlockLayout,
    BlockRules,
    check_size,
    make_layout,
)
from optex_core.optimizers._kronecker.matrix_jobs import MatrixService
from optex_core.optimizers.base import Optimizer
from optex_core.optimizers.parameter_blocks import Block, blocks_from_shapes
from optex_core.optimizers.schedules import LearningRate, check_rate
from optex_core.types import Array

#: The default of a setting whose value the preset gives.
BY_PRESET: Any = None


@dataclass(frozen=True, slots=True)
class KroneckerSettings(Optimizer):
    """Settings of optimizers with a matrix for each axis of a tensor; abstract: the steps are in
    `Shampoo` and `SOAP`.

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
        A factor whose statistics
        begin, or grow tenfold, between two of its turns gets one at once.
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
    roots : MatrixService or None, default None
        Computes jobs in the background; None: here, when they are due. Not part of a saved run.
    """

    #: Values of the settings whose default is None.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "large": {}}
    #: Settings that a tensor may have of its own.
    RULES: ClassVar[tuple[str, ...]] = ("block_size", "max_axis", "merge", "sides", "vectors")

    learning_rate: LearningRate = 1e-3
    shapes: Any = None
    preset: str = "small"
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
        one_of("preset", self.preset, self.PRESETS)
        for name, value in self.PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_rate("learning_rate", self.learning_rate)
        if self.shapes is not None:  # plain tuples: hashable, and a file can hold them
            shapes = tuple((b.name, b.shape) for b in blocks_from_shapes(self.shapes))
            object.__setattr__(self, "shapes", shapes)
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
        tensors = blocks_from_shapes(self.shapes) if self.shapes else ()
        given = _as_overrides(self.overrides, self.RULES, {t.path: t.name for t in tensors})
        object.__setattr__(self, "overrides", given)
        known = [t.name for t in tensors]
        for own, _ in self.overrides or ():
            if own not in known:
                raise ArgumentError(
                    f"overrides name the tensor {own!r}, which shapes do not "
                    f"have{did_you_mean(own, [t.path for t in tensors])}"
                )
        for tensor in (None, *known):
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
    def contractions(self) -> int:
        """How many times a step multiplies all tiles by their matrices."""
        return 1

    @property
    def gradients(self) -> int:
        """The fewest gradients in a statistic that a matrix is made of."""
        return 1

    @property
    def divides_by_weight(self) -> bool:
        """True if jobs hold mean statistics: divided by the sum of their weights."""
        return False

    @property
    def iterates(self) -> bool:
        """True if jobs hold the bases before, from which they step."""
        return False

    def ridge_in(self, dtype: np.dtype[Any]) -> float:
        """The ridge of the roots, or the floor of the bases, of matrices stored in `dtype`."""
        return 0.0

    def solver_of(self, on_gpu: bool) -> str:
        """The solver of a job whose arrays are there."""
        return "eigh"

    def rules_of(self, tensor: str | None) -> BlockRules:
        """The rules of a tensor."""
        own = dict(self.overrides or ()).get(tensor, ())
        rules: dict[str, Any] = {"exponent": 0.0, **{r: getattr(self, r) for r in self.RULES}}
        return BlockRules(**rules | dict(own))

    def check_rules(self, rules: BlockRules) -> None:
        """Refuse rules that cannot be."""
        boolean("vectors", rules.vectors)
        integer("block_size", rules.block_size, low=1)
        integer("max_axis", rules.max_axis, low=1)
        one_of("merge", rules.merge, ("right", "left", "none"))
        one_of("sides", rules.sides, SIDES)

    # What follows from the settings.

    def tensors(self, d: int | None = None) -> tuple[Block, ...]:
        """The tensors of a vector of length d; d is needed where no shapes were given."""
        if self.shapes is not None:
            return blocks_from_shapes(self.shapes)
        if d is None:
            kind = type(self).__name__
            raise ArgumentError(
                f"plan needs shapes: {kind}.plan({{'w': (256, 128)}}), or an optimizer "
                "that was made with shapes"
            )
        return (Block("x", 0, (d,)),)

    def cut(self, tensors: tuple[Block, ...]) -> BlockLayout:
        """The blocks of these tensors."""
        rules = tuple(self.rules_of(t.name) for t in tensors)
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
        scratch = self._scratch.get(backend.xp.__name__)
        if scratch is None:
            scratch = self._scratch.setdefault(backend.xp.__name__, Scratch(backend.xp))
        return Workspace(self, backend, self.layout(len(x)), self.state_dtype(x), scratch)

    def state_dtype(self, x: Array) -> np.dtype[Any]:
        """The precision of statistics, roots and block products."""
        return np.dtype(self.packed_dtype or x.dtype)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Settings, backend and memory that the parts of a step share."""

    settings: KroneckerSettings
    backend: Backend
    layout: BlockLayout
    dtype: np.dtype[Any]  # of statistics, roots and block products
    scratch: Scratch


def _as_overrides(
    given: Any, known: tuple[str, ...], paths: dict[str, str]
) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] | None:
    """As tuples of pairs, which a file can hold, by names."""
    if given is None:
        return None
    pairs = given.items() if isinstance(given, Mapping) else given
    result = []
    try:
        for name, rules in pairs:
            items = rules.items() if isinstance(rules, Mapping) else rules
            chosen = tuple((str(rule), plain_value(value)) for rule, value in items)
            for rule, _ in chosen:
                if rule not in known:
                    raise ArgumentTypeError(
                        f"unknown rule {rule!r} for the tensor {name!r}{did_you_mean(rule, known)}"
                    )
            result.append((paths.get(str(name), str(name)), chosen))
    except OptexError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"overrides must be a dict like {{'w': {{'sides': 'right'}}}}, got {short_repr(given)}"
        ) from error
    return tuple(result)
