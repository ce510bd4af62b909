"""Settings of the gradient estimate, and the fit of its hyperparameters.

Rows may be float32: distances, weights and sums are float64 for both, and
tests/helpers/float32_bounds.py has the bound of what rounding leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from optex_core._validation import (
    integer,
    one_of,
    positive,
    real,
    reject_unknown_fields,
    short_repr,
)
from optex_core.backends import float_array, for_array
from optex_core.errors import ArgumentError
from optex_core.model.history import History
from optex_core.model.kernels.base import Kernel, get_kernel
from optex_core.model.likelihood import (
    Hyperparameters,
    maximize_reml,
    median_distance,
    pair_matrices,
    secant_curvature,
)
from optex_core.model.posterior import Posterior
from optex_core.types import Array

#: With fewer rows the restricted likelihood says nothing (at n = 2 it is exactly constant):
#: previous or default values are kept.
MIN_ROWS_TO_TUNE = 4
#: Default length in medians of the row distances, where the likelihood is not asked: long lengths
#: make kriging extrapolate smoothly.
DEFAULT_LENGTH_IN_MEDIANS = 10.0
#: Default noise / amplitude where the likelihood is not asked.
DEFAULT_NOISE = 1e-8
#: Default curvature of the linear mean in units of the largest secant curvature: 0 in its place
#: cost 3 % of the speed-up in rounds.
DEFAULT_CURVATURE = 0.3


@reject_unknown_fields
@dataclass(frozen=True, slots=True)
class GradientEstimator:
    """Settings of the gradient estimate.

    Parameters
    ----------
    kernel : str or Kernel, default "matern52"
        "rbf", "matern12", "matern32", "matern52", "rational_quadratic", or an object.
    history : int or None, default None
        T0, rows kept; None: max(20, 6 N), at most 512, since a fit takes time T0^3 (N = 1,000:
        0.7 s an iteration with 512 rows, minutes with 6,000).
    mean : {"zero", "constant", "linear"} or None, default None
        Prior mean: zero (the paper), a fitted constant (ordinary kriging), or with a linear part
        that bends back in unknown directions. None: what the strategy prefers.
    tune : {"likelihood", "median", "fixed"}, default "likelihood"
        Where length and noise come from when they are not given: restricted likelihood on a grid;
        the length from the median distance at each fit; the same once, from the first rows.
    length_scale : float or None, default None
        Given: kept, in units of x / x_scale.
    noise : float or None, default None
        Given: kept; noise variance / amplitude, 0 or more.
    kernel_dims : int or None, default None
        Kernel distances on that many coordinates, drawn once per run from the run's seed (the
        paper's sub-sampling for large d). None: all.
    every : int, default 1
        Iterations between searches of the likelihood; in between length, noise and curvature are
        kept. Measured (`auto`, N = 5, 13 problems): 2, 4, 8 take 0.99, 1.02, 1.04 x the iterations
        and save 18, 24, 21 % of the overhead.

    References
    ----------
    arXiv 2402.11427; Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, section
    2.7 (fitted means).
    """

    kernel: str | Kernel = "matern52"
    history: int | None = None
    mean: str | None = None
    tune: str = "likelihood"
    length_scale: float | None = None
    noise: float | None = None
    kernel_dims: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        get_kernel(self.kernel)
        if self.history is not None:
            integer("history", self.history, low=2)
        if self.mean is not None:
            one_of("mean", self.mean, ("zero", "constant", "linear"))
        one_of("tune", self.tune, ("likelihood", "median", "fixed"))
        if self.length_scale is not None:
            length = positive("length_scale", self.length_scale)
            # Its square is divided by. As a float: ufuncs take no integer of 30 digits.
            length = real("length_scale", length, low=1e-150, high=1e150)
            object.__setattr__(self, "length_scale", length)
        if self.noise is not None:
            real("noise", self.noise, low=0.0, high=math.inf, open_high=True)
        if self.kernel_dims is not None:
            integer("kernel_dims", self.kernel_dims, low=1)
        integer("every", self.every, low=1)

    def with_defaults(self, parallelism: int, mean: str, d: int) -> GradientEstimator:
        """The same settings with `history` and `mean` filled in for a run of d parameters."""
        if self.kernel_dims is not None and self.kernel_dims > d:
            raise ArgumentError(
                f"kernel_dims must be at most the number of parameters {d}, got {self.kernel_dims}"
            )
        history = self.history or min(max(20, 6 * parallelism), 512)
        return replace(self, history=history, mean=self.mean or mean)

    def fit(self, X: Array, G: Array, x_scale: Array | None = None) -> Posterior:
        """Fit to points and their gradients, both of shape (n, d), oldest first, for use outside an
        engine; `x_scale` are the units of the parameters, as in `OptEx`.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((12, 3))
        >>> posterior = GradientEstimator().fit(X, 2.0 * X)
        >>> bool(np.allclose(posterior.mean(np.zeros(3)), 0.0, atol=0.1))
        True
        """
        X, G = float_array("X", X), float_array("G", G)
        if X.ndim != 2 or X.shape != G.shape or not len(X):
            raise ArgumentError(
                f"X and G must have one shape (n, d) with n >= 1, got {X.shape} and {G.shape}"
            )
        backend, d = for_array(X), X.shape[1]
        for i in range(len(X)):
            if not (backend.all_finite(X[i]) and backend.all_finite(G[i])):
                raise ArgumentError(f"X and G must be finite, row {i} is not")
        if x_scale is not None:
            x_scale = backend.to_host(float_array("x_scale", x_scale))
            if x_scale.shape not in ((), (d,)) or not (np.isfinite(x_scale) & (x_scale > 0)).all():
                wanted = f"a positive finite number or {d} of them"
                raise ArgumentError(f"x_scale must be {wanted}, got {short_repr(x_scale)}")
            x_scale = backend.copy_in(np.broadcast_to(x_scale, (d,)), G.dtype)
        settings = replace(self.with_defaults(1, "constant", d), history=max(2, len(X)))
        dims = None
        if self.kernel_dims is not None:
            dims = np.sort(np.random.default_rng(0).permutation(d)[: self.kernel_dims])
        history = History(max(2, len(X)), d, G.dtype, backend, scale=x_scale, dims=dims)
        history.extend(list(zip(X, G, strict=True)))
        if error := history.range_error():
            raise ArgumentError(error)
        hyper, _ = fit_hyperparameters(settings, history, Hyperparameters())
        return Posterior(settings, history, hyper)


def fit_hyperparameters(
    settings: GradientEstimator, history: History, previous: Hyperparameters
) -> tuple[Hyperparameters, str]:
    """New hyperparameters for the rows of a history, and a note where the likelihood had none.

    The likelihood's choice; with fewer than four rows, or no usable candidate, the previous values;
    before any, ten medians of the distances and a noise of 1e-8.
    """
    n, linear, note = history.n, settings.mean == "linear", ""
    enough = n >= MIN_ROWS_TO_TUNE
    if enough and settings.tune == "likelihood":
        if _is_recent(settings, previous):
            return replace(previous, age=previous.age + 1), ""
        found = maximize_reml(
            get_kernel(settings.kernel),
            pair_matrices(history, linear),
            constant=settings.mean != "zero",
            linear=linear,
            length=settings.length_scale,
            noise=settings.noise,
        )
        if found is not None:
            return found, ""
        old = previous.length > 0.0
        kept = "previous length and noise kept" if old else "default length and noise taken"
        note = f"no usable likelihood: {kept}"
    follows_median = settings.tune == "median" and settings.length_scale is None
    if enough and previous.length > 0.0 and not follows_median:
        return (replace(previous, age=0) if previous.age else previous), note
    median = DEFAULT_LENGTH_IN_MEDIANS * median_distance(history.S[:n, :n])
    length = settings.length_scale or median or previous.length
    noise = DEFAULT_NOISE if settings.noise is None else settings.noise
    top = secant_curvature(pair_matrices(history)) if linear and n > 1 else 0.0
    return Hyperparameters(length, noise, DEFAULT_CURVATURE * top), note


def _is_recent(settings: GradientEstimator, previous: Hyperparameters) -> bool:
    """True if the likelihood is not searched in this iteration."""
    return previous.length > 0.0 and previous.age + 1 < settings.every
