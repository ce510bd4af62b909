"""Settings of Shampoo beside those that it shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

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
from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.blocking import BlockRules
from optex_core.optimizers._kronecker.matrix_roots import smallest_ridge
from optex_core.optimizers._kronecker.settings import BY_PRESET, KroneckerSettings
from optex_core.optimizers.shampoo.grafting import GRAFTS


@dataclass(frozen=True, slots=True)
class ShampooSettings(KroneckerSettings):
    """Settings of `Shampoo`; abstract: the steps are there.

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
    decay : float, default 0
        (weight_decay) Decoupled, multiplied by the rate, as in `AdamW`.
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
    """

    PRESETS: ClassVar[dict[str, dict[str, object]]] = {
        "small": {
            "b2": 0.95,
            "graft_b2": 0.95,
            "block_size": 128,
            "start": 1,
            "interval": 10,
            "delay": 0,
        },
        # Interval and start are those of AlgoPerf's JAX baseline, block_size is Meta's.
        "large": {
            "b2": 0.995,
            "graft_b2": 0.999,
            "block_size": 1024,
            "start": 101,
            "interval": 20,
            "delay": 5,
        },
    }
    RULES: ClassVar[tuple[str, ...]] = (*KroneckerSettings.RULES, "exponent")

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
        KroneckerSettings.__post_init__(self)
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
        return bool(self.momentum) + GRAFTS[self.graft].slots

    @property
    def divides_by_weight(self) -> bool:
        return self.graft != "none" or (self.bias_correction and self.b2 < 1.0)

    def ridge_in(self, dtype: np.dtype) -> float:
        return smallest_ridge(self.ridge, dtype)

    def solver_of(self, on_gpu: bool) -> str:
        if self.solver != "auto":
            return self.solver
        fractional = any(not float(p or 2).is_integer() for p in self._exponents())
        return "newton" if self.roots is None and on_gpu and not fractional else "eigh"

    def check_rules(self, rules: BlockRules) -> None:
        KroneckerSettings.check_rules(self, rules)
        p = rules.exponent
        if p is None:
            return
        p = real("exponent", p, low=1.0, high=2.0**53)  # roots take it as a float
        if self.solver == "newton" and not p.is_integer():
            raise ArgumentError(
                f"solver='newton' needs an integer exponent, got {p}; pass solver='eigh'"
            )

    def _exponents(self) -> list[float | None]:
        own = [dict(rules).get("exponent") for _, rules in self.overrides or ()]
        return [self.exponent, *own]
