"""The kernel estimate of the gradient: settings, fit, posterior mean and standard deviation.

Model (arXiv 2402.11427, section 4, with the extensions of this package): grad F ~ GP(mean, kappa I)
observed with noise; the posterior mean at x is one weighted sum of the gradients in the history,

    mu(x) = sum_i w_i g_i  [+ gamma / scale^2 (x - sum_i w_i theta_i) with the linear mean],

the total standard deviation is sqrt(d s^2 v(x)), with the weights w, the variance factor v and the
amplitude d s^2 from T0 x T0 numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optex_core._validation import (
    integer,
    one_of,
    positive,
    real,
    reject_unknown_fields,
    short_repr,
)
from optex_core.backends import for_array
from optex_core.backends.base import PosteriorArrays
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.model.history import History
from optex_core.model.kernels.base import Kernel, get_kernel, traced_kernel
from optex_core.model.kriging import IllConditioned, KrigingSystem
from optex_core.model.likelihood import (
    Hyperparameters,
    LikelihoodGrid,
    PairMatrices,
    amplitude,
    make_likelihood_grid,
    maximize_reml,
    median_distance,
    secant_curvature,
)
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
        T0, rows kept; None: max(20, 6 N), at most 512, since a fit takes time T0^3 (N = 1,000: 0.7 s a
        round with 512 rows, minutes with 6,000).
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
        Rounds between searches of the likelihood; in between length, noise and curvature are kept.
        Measured (`optex-core bench efficiency --every 1,2,4,8`, `auto`, N = 5, 13 problems): 2, 4,
        8 take 0.99, 1.02, 1.04 x the rounds and save 18, 24, 21 % of our own work.

    Notes
    -----
    float32 rows against their float64 twin (the same numbers, held as float64): distances, weights
    and sums are float64 for both, so that with u = 2^-24, n rows, d parameters and beta = 1 /
    (smallest eigenvalue of the regularised Gram matrix B of gram.py)

        |mu_32 - mu_64|  <=  u |mu_64| + |dw| max_i |g_i - g_r|,      |dw|  <=  C beta n (d 2^-52 + 4e-13) (1 + |w|)  with C = 2 to 4,

    written out in `optex_core.testing.float32_bounds`. The points of a round differ by e_{s+1} <=
    (1 + rate L) e_s + rate |d mu| + 3 u |z_{s+1}|, L the slope of mu; on coefficients by u
    |z_{s+1}| in place of three. The first rounds of a run differ by what rounding of the data does:
    at most 2 max_m |x_64^(m) - x_64| + u |x_64| over float64 runs m whose points and gradients are
    moved by u. These hold at given hyperparameters: the likelihood's choice on its grid may flip.
    tests/model/test_float32.py measures all three.

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427; Rasmussen, Williams, Gaussian
    Processes for Machine Learning, 2006, section 2.7 (fitted means).
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
            # Its square is divided by. As a float: an integer of 30 digits is none to a ufunc.
            object.__setattr__(
                self,
                "length_scale",
                real(
                    "length_scale",
                    positive("length_scale", self.length_scale),
                    low=1e-150,
                    high=1e150,
                ),
            )
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
        return replace(
            self, history=self.history or min(max(20, 6 * parallelism), 512), mean=self.mean or mean
        )

    def fit(self, X: Array, G: Array, x_scale: Array | None = None) -> Posterior:
        """Fit to rows of one's own, for use outside an engine.

        Parameters
        ----------
        X, G : array_like, shape (n, d), n >= 1
            Points and their gradients, oldest first; float32 and float64 are kept.
        x_scale : float or array_like, shape (d,), optional
            Units of the parameters: distances are taken in x / x_scale.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            For rows that are not finite real numbers of one shape (n, d), or an `x_scale` that is
            not positive.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((12, 3))
        >>> posterior = GradientEstimator().fit(X, 2.0 * X)
        >>> bool(np.allclose(posterior.mean(np.zeros(3)), 0.0, atol=0.1))
        True
        """
        X, G = _real_rows("X", X), _real_rows("G", G)
        if X.ndim != 2 or X.shape != G.shape or not len(X):
            raise ArgumentError(
                f"X and G must have one shape (n, d) with n >= 1, got {X.shape} and {G.shape}"
            )
        backend, d = for_array(X), X.shape[1]
        for i in range(len(X)):
            if not (backend.all_finite(X[i]) and backend.all_finite(G[i])):
                raise ArgumentError(f"X and G must be finite, row {i} is not")
        if x_scale is not None:
            x_scale = backend.to_host(_real_rows("x_scale", x_scale))
            if x_scale.shape not in ((), (d,)) or not (np.isfinite(x_scale) & (x_scale > 0)).all():
                raise ArgumentError(
                    f"x_scale must be a positive finite number or {d} of them, got "
                    f"{short_repr(x_scale)}"
                )
            x_scale = backend.copy_in(np.broadcast_to(x_scale, (d,)), G.dtype)
        settings = replace(self.with_defaults(1, "constant", d), history=max(2, len(X)))
        dims = (
            None
            if self.kernel_dims is None
            else np.sort(np.random.default_rng(0).permutation(d)[: self.kernel_dims])
        )
        history = History(max(2, len(X)), d, G.dtype, backend, scale=x_scale, dims=dims)
        history.extend(list(zip(X, G, strict=True)))
        return Posterior(
            settings, history, fit_hyperparameters(settings, history, Hyperparameters())[0]
        )


def precompute_likelihood_grid(
    settings: GradientEstimator, S: np.ndarray, previous: Hyperparameters
) -> LikelihoodGrid | None:
    """What `fit_hyperparameters` will need to know of rows at the squared distances `S`, before
    their gradients are known; None where that is nothing.
    """
    if (
        len(S) < MIN_ROWS_TO_TUNE
        or settings.tune != "likelihood"
        or (previous.length > 0.0 and previous.age + 1 < settings.every)
    ):
        return None
    return make_likelihood_grid(
        get_kernel(settings.kernel),
        S,
        constant=settings.mean != "zero",
        length=settings.length_scale,
        noise=settings.noise,
    )


def fit_hyperparameters(
    settings: GradientEstimator,
    history: History,
    previous: Hyperparameters,
    precomputed: LikelihoodGrid | None = None,
) -> tuple[Hyperparameters, str]:
    """New hyperparameters for the rows of `history`, and a note where they could not be found as
    asked.

    The lines of descent: the likelihood's choice; with fewer than four rows, or no usable
    candidate, the previous values; before any, ten medians of the distances and a noise of 1e-8.
    """
    n, S = history.n, history.S[: history.n, : history.n]
    note = ""
    if n >= MIN_ROWS_TO_TUNE and settings.tune == "likelihood":
        if previous.length > 0.0 and previous.age + 1 < settings.every:
            return replace(previous, age=previous.age + 1), ""
        found = maximize_reml(
            get_kernel(settings.kernel),
            pair_matrices(history, settings.mean == "linear"),
            constant=settings.mean != "zero",
            linear=settings.mean == "linear",
            length=settings.length_scale,
            noise=settings.noise,
            precomputed=precomputed,
        )
        if found is not None:
            return found, ""
        kept = (
            "previous length and noise kept"
            if previous.length > 0.0
            else "default length and noise taken"
        )
        note = f"no usable likelihood: {kept}"
    keep = previous.length > 0.0 and (
        settings.tune != "median" or settings.length_scale is not None
    )
    if keep and n >= MIN_ROWS_TO_TUNE:
        return previous if previous.age == 0 else replace(previous, age=0), note
    length = (
        settings.length_scale or DEFAULT_LENGTH_IN_MEDIANS * median_distance(S) or previous.length
    )
    noise = DEFAULT_NOISE if settings.noise is None else settings.noise
    top = (
        secant_curvature(pair_matrices(history, True))
        if settings.mean == "linear" and n > 1
        else 0.0
    )
    return Hyperparameters(length, noise, DEFAULT_CURVATURE * top, 0), note


def _real_rows(name: str, values: Any) -> Array:
    """`values` as an array of float32 or float64; a GPU array stays where it is."""
    try:
        array = (
            values
            if hasattr(values, "dtype") and hasattr(values, "reshape")
            else np.asarray(values)
        )
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{name} must be numbers of one shape, got a ragged sequence ({error})"
        ) from error
    if array.dtype not in (np.float32, np.float64):
        raise ArgumentTypeError(
            f"{name} must hold real numbers in float32 or float64, got dtype {array.dtype}"
        )
    return array


def pair_matrices(history: History, linear: bool = True) -> PairMatrices:
    """The pair matrices of the valid rows; D and M, which only the linear mean asks for, are zeros
    without it.
    """
    n = history.n
    eps = float(np.finfo(history.G.dtype).eps)
    nothing = np.zeros((n, n))
    D, M = (history.D[:n, :n], history.M[:n, :n]) if linear else (nothing, nothing)
    return PairMatrices(
        history.S[:n, :n],
        D,
        history.E[:n, :n],
        M,
        history.squared_norms[:n],
        history.chronological_order(),
        eps,
    )


class Posterior:
    """The gradient estimate given the rows of a history at the moment of the fit.

    It reads the history's rows when asked, so it is valid until the next row is appended.

    Parameters
    ----------
    settings : GradientEstimator
        With `history` and `mean` filled in.
    history : History
        At least one row.
    hyper : Hyperparameters

    Attributes
    ----------
    fallback : str
        "" or why the estimate is one gradient everywhere: the mean of all where all rows coincide,
        the newest where no jitter made the system usable.
    """

    def __init__(
        self, settings: GradientEstimator, history: History, hyper: Hyperparameters
    ) -> None:
        self.settings, self.history, self.hyper = settings, history, hyper
        self.constant = settings.mean != "zero"
        self._kernel = get_kernel(settings.kernel)
        self.n = history.n
        self.fallback = ""
        self._system: KrigingSystem | None = None
        self._amplitude: float | None = None
        if hyper.length <= 0.0:
            self.fallback = "all rows coincide: the mean of their gradients is repeated"
        else:
            S = history.S[: self.n, : self.n]
            try:
                self._system = KrigingSystem(
                    self._kernel, S, hyper.length, hyper.noise, self.constant
                )
            except IllConditioned as error:
                self.fallback = f"{error}: the newest gradient is repeated"

    @property
    def system(self) -> KrigingSystem | None:
        """The factorised system; None where the estimate is a fallback."""
        return self._system

    @property
    def noise(self) -> float:
        """lambda in use: the tuned value, or what the jitter ladder made of it."""
        return self._system.noise if self._system is not None else self.hyper.noise

    def weights(self, x: Array) -> np.ndarray:
        """The weights w, shape (n,), at `x`, shape (d,)."""
        return self._weights_and_distances(x)[0]

    def mean(self, x: Array) -> Array:
        """mu(x), shape (d,), dtype of the gradients."""
        return self._mean(x, self._weights_and_distances(x)[0])

    def predict(self, x: Array) -> tuple[Array, float]:
        """mu(x) and the total standard deviation sqrt(d s^2 v) of the noise-free gradient, in units
        of |scale g|.
        """
        w, s = self._weights_and_distances(x)
        return self._mean(x, w), self._std(w, s)

    def mean_and_noise_factor(self, x: Array) -> tuple[Array, float]:
        """mu(x) and |w|^2: the observation noise that is left in mu(x), in units of
        `noise_variance`.
        """
        w, _ = self._weights_and_distances(x)
        return self._mean(x, w), float(w.dot(w))

    def std(self, x: Array) -> float:
        """The total standard deviation sqrt(d s^2 v(x)), in units of |scale g|; 0 where the
        estimate is a fallback.
        """
        return self._std(*self._weights_and_distances(x))

    def variance_factor(self, x: Array) -> float:
        """v(x): the variance of the noise-free gradient in units of the amplitude."""
        w, s = self._weights_and_distances(x)
        return 0.0 if self._system is None else self._system.variance(s, w)

    def _weights_and_distances(self, x: Array) -> tuple[np.ndarray, np.ndarray]:
        """Weights and squared kernel distances."""
        s = self._distances(x)
        return self._fallback_weights() if self._system is None else self._system.weights(s), s

    def _fallback_weights(self) -> np.ndarray:
        """The weights of a fallback."""
        if self.hyper.length <= 0.0:
            return np.full(self.n, 1.0 / self.n)
        w = np.zeros(self.n)
        w[self.history.newest] = 1.0
        return w

    def _distances(self, x: Array) -> np.ndarray:
        return self.history.distances(x)

    def _std(self, w: np.ndarray, s: np.ndarray) -> float:
        return (
            0.0 if self._system is None else math.sqrt(self.amplitude * self._system.variance(s, w))
        )

    def _mean(self, x: Array, w: np.ndarray) -> Array:
        history = self.history
        anchor = history.newest if self.constant else None
        curvature = 0.0 if self._system is None else self.hyper.curvature
        return history.backend.predict(
            history.X[: self.n], history.G[: self.n], w, anchor, x, curvature, history.scale
        )

    def export_arrays(self) -> PosteriorArrays | None:
        """The estimate as numbers, for steps that are compiled; None where the kernel cannot be
        written down.
        """
        history, formula = self.history, traced_kernel(self._kernel, self.constant)
        if formula is None:
            return None
        anchor, near = (
            history.newest if self.constant else None,
            None if history.dims is None else history.distances,
        )
        linear, curvature = (
            self.settings.mean == "linear",
            0.0 if self._system is None else self.hyper.curvature,
        )
        rows = (
            history.X[: self.n],
            history.G[: self.n],
            anchor,
            linear,
            curvature,
            history.scale,
            near,
            formula,
        )
        begin = history.distances if history.caches_distances else None
        if self._system is None:  # one set of weights everywhere
            return PosteriorArrays(
                *rows,
                0.0,
                0.0,
                0.0,
                self._fallback_weights(),
                np.zeros(self.n),
                np.zeros((0, self.n)),
                begin,
            )
        return PosteriorArrays(*rows, *self._system.weight_map(), begin)

    @property
    def amplitude(self) -> float:
        """d s^2 by restricted likelihood: squared deviation of the whole gradient from its mean,
        far from all rows; 0 with one row.
        """
        if self._amplitude is None:
            system = self._system
            self._amplitude = 0.0
            if system is not None and self.n > 1:
                size = amplitude(
                    pair_matrices(self.history, self.hyper.curvature != 0.0),
                    system.basis,
                    self.hyper.curvature,
                    self.constant,
                )
                self._amplitude = size / system.h0
        return self._amplitude

    @property
    def noise_variance(self) -> float:
        """lambda d s^2: the expected squared length of scale x the noise in one observed gradient."""
        return self.noise * self.amplitude
