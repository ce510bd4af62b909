"""Reference implementation of the gradient estimate: kernels, kriging and hyperparameters, every
formula once, plainly, in 50 decimal digits, with nothing kept between calls.

The fast code works on contrasts, eigenvectors and incremental pair matrices; this file takes the
rows themselves and the formulas as papers print them, K_ij = kappa(|x_i - x_j|^2 / ell^2), A = K +
lambda I, solved by elimination. Every function takes and returns float64 (or float32, whose values
are taken exactly). A call costs milliseconds to seconds, for tens of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from optex_core.model import estimator as defaults
from optex_core.model import likelihood
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import Kernel, get_kernel
from optex_core.model.likelihood import Hyperparameters
from optex_core.model.posterior import Posterior
from optex_core.testing.reference.digits import exact, in_digits, rounded

# -- kernels, by their textbook formulas -----------------------------------------------------------


#: Name -> kappa(s), Rasmussen and Williams 2006, section 4.2. A kernel that is not here is taken at
#: its own word, in float64.
PROFILES: dict[str, Callable[..., np.ndarray]] = {
    "rbf": lambda s: np.exp(-s / 2),
    "matern12": lambda s: np.exp(-np.sqrt(s)),
    "matern32": lambda s: (1 + np.sqrt(3 * s)) * np.exp(-np.sqrt(3 * s)),
    "matern52": lambda s: (1 + np.sqrt(5 * s) + 5 * s / 3) * np.exp(-np.sqrt(5 * s)),
    "rational_quadratic": lambda s, alpha: (1 + s / (2 * alpha)) ** -alpha,
}


def _kappa(kernel: str | Kernel) -> Callable[[np.ndarray], np.ndarray]:
    kernel = get_kernel(kernel)
    if kernel.name not in PROFILES:
        return lambda s: exact(kernel.profile(rounded(s)))
    settings = {n: getattr(kernel, n) for n in getattr(kernel, "__dataclass_fields__", {})}
    numbers = {n: Decimal(v) for n, v in settings.items() if isinstance(v, (int, float))}
    return partial(PROFILES[kernel.name], **numbers)


@in_digits
def profile(kernel: str | Kernel, s: ArrayLike) -> np.ndarray:
    """kappa(s), correctly rounded, the shape of `s`."""
    return rounded(_kappa(kernel)(exact(s)))


@in_digits
def complement(kernel: str | Kernel, s: ArrayLike) -> np.ndarray:
    """1 - kappa(s), correctly rounded down to s = 1e-30."""
    return rounded(1 - _kappa(kernel)(exact(s)))


# -- linear algebra --------------------------------------------------------------------------------


def _eliminate(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, Decimal]:
    """A^-1 B and log |det A|, by Gaussian elimination with row exchanges."""
    A, X, n, logdet = A.copy(), B.copy(), len(A), Decimal(0)
    for i in range(n):
        p = max(range(i, n), key=lambda row: abs(A[row, i]))
        A[[i, p]], X[[i, p]] = A[[p, i]], X[[p, i]]
        logdet += abs(A[i, i]).ln()
        for j in range(i + 1, n):
            factor = A[j, i] / A[i, i]
            A[j] = A[j] - factor * A[i]
            X[j] = X[j] - factor * X[i]
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            X[i] = X[i] - A[i, j] * X[j]
        X[i] = X[i] / A[i, i]
    return X, logdet


def _distances(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return ((X[:, None] - Y[None]) ** 2).sum(2)


def _units(X: ArrayLike, G: ArrayLike, scale: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """The change of variables u = x / scale, under which a gradient becomes scale g."""
    X, G = exact(X), exact(G)
    if scale is None:
        return X, G
    s = exact(scale)
    return X / s, G * s


# -- the estimator ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kriging:
    """The gradient estimate from rows, at given hyperparameters.

    With k the kernel row of a query, u = A^-1 1 and gamma the curvature: w = A^-1 k for the prior
    "zero", for the others w = A^-1 k + (1 - 1'A^-1 k) / (1'u) u; mu(x) = sum_i w_i g_i + gamma (x -
    sum_i w_i x_i).
    """

    kernel: str | Kernel
    X: np.ndarray  # points, shape (n, d), oldest first
    G: np.ndarray  # gradients, shape (n, d)
    length: float  # ell, in units of x / scale
    noise: float  # lambda, noise variance over amplitude
    prior: str = "constant"  # the prior mean: "zero", "constant", or "linear", with `curvature`
    curvature: float = 0.0  # gamma, in units of (scale g) / (x / scale)
    scale: ArrayLike | None = None  # units of the parameters, shape (d,)
    dims: np.ndarray | None = None  # the coordinates that kernel distances are taken on

    def _kernel(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        dims = slice(None) if self.dims is None else self.dims
        squared = _distances(X[:, dims], Y[:, dims]) / Decimal(self.length) ** 2
        kernel: np.ndarray = _kappa(self.kernel)(squared)
        return kernel

    def _system(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points and gradients in their units, and A."""
        X, G = _units(self.X, self.G, self.scale)
        return X, G, self._kernel(X, X) + Decimal(self.noise) * exact(np.eye(len(X)))

    def _solved(self, x: ArrayLike) -> tuple[np.ndarray, Decimal, np.ndarray]:
        """w, v and x / scale."""
        X, _, A = self._system()
        point, _ = _units(x, x, self.scale)
        k, one = self._kernel(X, point[None])[:, 0], exact(np.ones(len(X)))
        solutions, _ = _eliminate(A, np.stack([k, one], axis=1))
        w, u = solutions.T
        v = 1 - k.dot(w)
        if self.prior != "zero":
            left = 1 - w.sum()
            v = v + left**2 / u.sum()
            w = w + left / u.sum() * u
        return w, v, point

    @in_digits
    def weights(self, x: ArrayLike) -> np.ndarray:
        """w at `x`, float64, shape (n,)."""
        return rounded(self._solved(x)[0])

    @in_digits
    def mean(self, x: ArrayLike) -> np.ndarray:
        """mu(x), float64, shape (d,)."""
        w, _, point = self._solved(x)
        X, G = _units(self.X, self.G, self.scale)
        estimate = w.dot(G)
        if self.prior == "linear":
            estimate = estimate + Decimal(self.curvature) * (point - w.dot(X))
        return rounded(estimate if self.scale is None else estimate / exact(self.scale))

    @in_digits
    def variance_factor(self, x: ArrayLike) -> float:
        """v = 1 - k'A^-1 k, with a fitted mean + (1 - 1'A^-1 k)^2 / (1'u)."""
        return float(self._solved(x)[1])

    @in_digits
    def amplitude(self) -> float:
        """d s^2 = trace(P R) / m: P = A^-1 - uu'/(1'u), m = n - 1 with a fitted mean, else A^-1 and
        n; 0 with one row. R as in `likelihood`.
        """
        return 0.0 if len(self.X) == 1 else float(self._fit()[0])

    @in_digits
    def likelihood(self) -> float:
        """-2/d times the log restricted likelihood, up to a constant of n: m log(trace(P R) / m) +
        logdet A + log(1'u).

        R = (G - gamma X)(G - gamma X)'. With a zero mean: n log(trace(A^-1 R) / n) + logdet A.
        """
        amplitude, logdet, m = self._fit()
        return float(m * amplitude.ln() + logdet)

    def _fit(self) -> tuple[Decimal, Decimal, int]:
        X, G, A = self._system()
        n, rest = len(X), G - Decimal(self.curvature if self.prior == "linear" else 0.0) * X
        R = rest.dot(rest.T)
        solutions, logdet = _eliminate(A, np.concatenate([R, exact(np.ones((n, 1)))], axis=1))
        explained, u = np.trace(solutions[:, :n]), solutions[:, n]
        if self.prior == "zero":
            return explained / n, logdet, n
        return (explained - u.dot(R).dot(u) / u.sum()) / (n - 1), logdet + u.sum().ln(), n - 1

    def std(self, x: ArrayLike) -> float:
        """sqrt(d s^2 v(x)), the total standard deviation of the noise-free gradient."""
        return math.sqrt(self.amplitude() * self.variance_factor(x))


# -- hyperparameters -------------------------------------------------------------------------------


@in_digits
def secant_curvature(X: np.ndarray, G: np.ndarray, scale: ArrayLike | None = None) -> float:
    """The largest |dg|^2 / (dg . dx) of consecutive rows that curve upwards; 0 if none does."""
    X, G = _units(X, G, scale)
    largest = Decimal(0)
    for i in range(len(X) - 1):
        dx, dg = X[i + 1] - X[i], G[i + 1] - G[i]
        if dg.dot(dx) > Decimal("1e-12") * (dg.dot(dg) * dx.dot(dx)).sqrt():
            largest = max(largest, dg.dot(dg) / dg.dot(dx))
    return float(largest)


@in_digits
def median_distance(
    X: np.ndarray, scale: ArrayLike | None = None, dims: np.ndarray | None = None
) -> float:
    """The median of the positive distances between rows; 0 if there is none."""
    squared = _pair_distances(X, scale, dims)
    distances = [float(s.sqrt()) for i, row in enumerate(squared) for s in row[:i] if s > 0]
    return float(np.median(distances)) if distances else 0.0


@in_digits
def typical_contrast(
    kernel: str | Kernel,
    X: np.ndarray,
    length: float,
    scale: ArrayLike | None = None,
    dims: np.ndarray | None = None,
) -> float:
    """h0, the mean of 1 - kappa over pairs of different rows."""
    squared = _pair_distances(X, scale, dims)
    contrasts = 1 - _kappa(kernel)(squared / Decimal(length) ** 2)
    n = len(squared)
    return float(contrasts.sum() / (n * (n - 1)))


def _pair_distances(X: np.ndarray, scale: ArrayLike | None, dims: np.ndarray | None) -> np.ndarray:
    """Squared kernel distances of all rows."""
    X, _ = _units(X, X, scale)
    X = X if dims is None else X[:, dims]
    return _distances(X, X)


def candidates(
    settings: GradientEstimator,
    X: np.ndarray,
    G: np.ndarray,
    scale: ArrayLike | None = None,
    dims: np.ndarray | None = None,
) -> list[tuple[float, Kriging]]:
    """All points of the grid as (score, estimate): lengths in medians, noises rho = lambda / h0,
    curvatures in largest secant curvatures.

    Left out are those whose noise lambda d s^2 lies below (8 eps)^2 max |g|^2, the rounding error
    of the gradients themselves.
    """
    prior = settings.mean or "constant"
    wide = np.asarray(G, np.float64) * np.asarray(1.0 if scale is None else scale, np.float64)
    eps = float(np.finfo(np.asarray(G).dtype).eps)
    floor = (likelihood.GRADIENT_ROUNDING * eps) ** 2 * float((wide**2).sum(1).max())
    median = median_distance(X, scale, dims)
    top = secant_curvature(X, G, scale) if prior == "linear" else 0.0
    curvatures = [float(share) * top for share in likelihood.CURVATURE_GRID] if top > 0 else [0.0]
    lengths = [float(factor) * median for factor in likelihood.LENGTH_GRID]
    found = []
    for length in lengths if settings.length_scale is None else [settings.length_scale]:
        h0 = typical_contrast(settings.kernel, X, length, scale, dims) if prior != "zero" else 1.0
        noises = [float(rho) * h0 for rho in likelihood.NOISE_GRID]
        for noise in noises if settings.noise is None else [settings.noise]:
            for gamma in curvatures:
                one = Kriging(settings.kernel, X, G, length, noise, prior, gamma, scale, dims)
                size = one.amplitude()
                if size > 0.0 and size * noise >= floor:
                    found.append((one.likelihood(), one))
    return found


def hyperparameters(
    settings: GradientEstimator,
    X: np.ndarray,
    G: np.ndarray,
    previous: Hyperparameters,
    scale: ArrayLike | None = None,
    dims: np.ndarray | None = None,
) -> Hyperparameters:
    """What the estimator takes: the best of the grid, else what it had, else its defaults."""
    enough = len(X) >= defaults.MIN_ROWS_TO_TUNE
    if enough and settings.tune == "likelihood" and median_distance(X, scale, dims) > 0.0:
        found = candidates(settings, X, G, scale, dims)
        if found:
            best = min(found, key=lambda one: one[0])[1]
            return Hyperparameters(best.length, best.noise, best.curvature)
    follows = settings.tune == "median" and settings.length_scale is None
    if enough and previous.length > 0.0 and not follows:
        return previous
    typical = defaults.DEFAULT_LENGTH_IN_MEDIANS * median_distance(X, scale, dims)
    noise = defaults.DEFAULT_NOISE if settings.noise is None else settings.noise
    gamma = defaults.DEFAULT_CURVATURE * secant_curvature(X, G, scale)
    return Hyperparameters(
        settings.length_scale or typical or previous.length,
        noise,
        gamma if settings.mean == "linear" else 0.0,
    )


def reference_posterior(posterior: Posterior) -> Kriging:
    """The same estimate as a fitted `Posterior`: its rows and its hyperparameters."""
    history, settings, hyper = posterior.history, posterior.settings, posterior.hyper
    order, host = history.chronological_order(), history.backend.to_host
    X, G = host(history.X)[order], host(history.G)[order]
    scale = None if history.scale is None else host(history.scale)
    return Kriging(
        settings.kernel,
        X,
        G,
        hyper.length,
        posterior.noise,
        settings.mean or "constant",
        hyper.curvature,
        scale,
        history.dims,
    )
