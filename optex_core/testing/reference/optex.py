"""Reference implementation of the method: every formula once, plainly, in 50 decimal digits, with
nothing kept between calls.

The fast code works on contrasts, eigenvectors and incremental pair matrices; this file takes the
rows themselves and the formulas as papers print them, K_ij = kappa(|x_i - x_j|^2 / ell^2), A = K +
lambda I, solved by elimination. With 50 digits conditioning plays no part, so the two agree to the
rounding of the fast one. Tests hold the package to it, and a user whose run surprises can ask it
what the estimate should have been.

Every function takes and returns float64 (or float32, whose values are taken exactly). A call costs
milliseconds to seconds, for tens of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal, localcontext
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from optex_core.model import estimator as defaults
from optex_core.model import likelihood
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import Kernel, get_kernel
from optex_core.model.likelihood import Hyperparameters
from optex_core.strategies import trust_window as rules
from optex_core.types import Array, FirstOrderOptimizer

#: Digits of every sum, product, root and exponential.
DIGITS = 50

P = ParamSpec("P")
R = TypeVar("R")


def _in_digits(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(prec=DIGITS):
            return function(*args, **kwargs)

    return computed


def exact(values: Any) -> np.ndarray:
    """The same numbers as an array of `decimal.Decimal`, without any rounding: NumPy's arithmetic,
    `sqrt` and `exp` work on it.
    """
    array = np.asarray(values)
    out = np.empty(array.shape, dtype=object)
    for i, value in np.ndenumerate(array):
        out[i] = Decimal(float(value))
    return out


def rounded(values: Any) -> np.ndarray:
    """The nearest float64 of every number."""
    return np.asarray(values).astype(np.float64)


# -- kernels, by their textbook formulas -----------------------------------------------------------


def rbf(s: Any) -> Any:
    """exp(-s / 2)."""
    return np.exp(-s / 2)


def matern12(s: Any) -> Any:
    """exp(-r), r = sqrt(s)."""
    return np.exp(-np.sqrt(s))


def matern32(s: Any) -> Any:
    """(1 + r) exp(-r), r = sqrt(3 s)."""
    r = np.sqrt(3 * s)
    return (1 + r) * np.exp(-r)


def matern52(s: Any) -> Any:
    """(1 + r + r^2 / 3) exp(-r), r = sqrt(5 s)."""
    r = np.sqrt(5 * s)
    return (1 + r + r * r / 3) * np.exp(-r)


def rational_quadratic(s: Any, alpha: Any) -> Any:
    """(1 + s / (2 alpha))^(-alpha)."""
    return (1 + s / (2 * alpha)) ** -alpha


#: Name -> kappa(s), Rasmussen and Williams 2006, section 4.2. A kernel that is not here is taken at
#: its own word, in float64.
PROFILES: dict[str, Callable[..., Any]] = {
    profile.__name__: profile for profile in (rbf, matern12, matern32, matern52, rational_quadratic)
}


def _kappa(kernel: str | Kernel) -> Callable[[Any], Any]:
    kernel = get_kernel(kernel)
    if kernel.name not in PROFILES:
        return lambda s: exact(kernel.profile(rounded(s)))
    settings: Any = kernel
    numbers = {name: Decimal(value) for name, value in asdict(settings).items()}
    return partial(PROFILES[kernel.name], **numbers)


@_in_digits
def profile(kernel: str | Kernel, s: Any) -> np.ndarray:
    """kappa(s), correctly rounded, the shape of `s`."""
    return rounded(_kappa(kernel)(exact(s)))


@_in_digits
def complement(kernel: str | Kernel, s: Any) -> np.ndarray:
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


def _units(X: Any, G: Any, scale: Any) -> tuple[np.ndarray, np.ndarray]:
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

    Parameters
    ----------
    kernel : str or Kernel
    X, G : arrays, shape (n, d)
        Points and gradients, oldest first.
    length : float
        ell, in units of x / scale.
    noise : float
        lambda, noise variance over amplitude.
    prior : {"zero", "constant", "linear"}, default "constant"
        The prior mean; "linear" is the one that reads `curvature`.
    curvature : float, default 0.0
        gamma, in units of (scale g) / (x / scale).
    scale : array, shape (d,), optional
        Units of the parameters.
    dims : int array, shape (k,), optional
        The coordinates that kernel distances are taken on.
    """

    kernel: str | Kernel
    X: Any
    G: Any
    length: float
    noise: float
    prior: str = "constant"
    curvature: float = 0.0
    scale: Any = None
    dims: Any = None

    def _kernel(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        dims = slice(None) if self.dims is None else self.dims
        squared = _distances(X[:, dims], Y[:, dims]) / Decimal(self.length) ** 2
        kernel: np.ndarray = _kappa(self.kernel)(squared)
        return kernel

    def _system(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points and gradients in their units, and A."""
        X, G = _units(self.X, self.G, self.scale)
        return X, G, self._kernel(X, X) + Decimal(self.noise) * exact(np.eye(len(X)))

    def _residual_gram(self, X: np.ndarray, G: np.ndarray) -> np.ndarray:
        rest = G - Decimal(self.curvature if self.prior == "linear" else 0.0) * X
        gram: np.ndarray = rest.dot(rest.T)
        return gram

    def _solved(self, x: Any) -> tuple[np.ndarray, Decimal, np.ndarray]:
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

    @_in_digits
    def weights(self, x: Any) -> np.ndarray:
        """w at `x`, float64, shape (n,)."""
        return rounded(self._solved(x)[0])

    @_in_digits
    def mean(self, x: Any) -> np.ndarray:
        """mu(x), float64, shape (d,)."""
        w, _, point = self._solved(x)
        X, G = _units(self.X, self.G, self.scale)
        estimate = w.dot(G)
        if self.prior == "linear":
            estimate = estimate + Decimal(self.curvature) * (point - w.dot(X))
        return rounded(estimate if self.scale is None else estimate / exact(self.scale))

    @_in_digits
    def variance_factor(self, x: Any) -> float:
        """v = 1 - k'A^-1 k, with a fitted mean + (1 - 1'A^-1 k)^2 / (1'u)."""
        return float(self._solved(x)[1])

    @_in_digits
    def amplitude(self) -> float:
        """d s^2 = trace(P R) / m: P = A^-1 - uu'/(1'u), m = n - 1 with a fitted mean, else A^-1 and
        n; 0 with one row. R as in `likelihood`.
        """
        return 0.0 if len(self.X) == 1 else float(self._fit()[0])

    @_in_digits
    def likelihood(self) -> float:
        """-2/d times the log restricted likelihood, up to a constant of n: m log(trace(P R) / m) +
        logdet A + log(1'u).

        R = (G - gamma X)(G - gamma X)'. With a zero mean: n log(trace(A^-1 R) / n) + logdet A.
        """
        amplitude, logdet, m = self._fit()
        return float(m * amplitude.ln() + logdet)

    def _fit(self) -> tuple[Decimal, Decimal, int]:
        X, G, A = self._system()
        n, R = len(X), self._residual_gram(X, G)
        solutions, logdet = _eliminate(A, np.concatenate([R, exact(np.ones((n, 1)))], axis=1))
        explained, u = np.trace(solutions[:, :n]), solutions[:, n]
        if self.prior == "zero":
            return explained / n, logdet, n
        return (explained - u.dot(R).dot(u) / u.sum()) / (n - 1), logdet + u.sum().ln(), n - 1

    def std(self, x: Any) -> float:
        """sqrt(d s^2 v(x)), the total standard deviation of the noise-free gradient."""
        return math.sqrt(self.amplitude() * self.variance_factor(x))


# -- hyperparameters -------------------------------------------------------------------------------


@_in_digits
def secant_curvature(X: Any, G: Any, scale: Any = None) -> float:
    """The largest |dg|^2 / (dg . dx) of consecutive rows with dg . dx > 1e-12 |dg||dx|; 0 if there
    is none.
    """
    X, G = _units(X, G, scale)
    largest = Decimal(0)
    for i in range(len(X) - 1):
        dx, dg = X[i + 1] - X[i], G[i + 1] - G[i]
        if dg.dot(dx) > Decimal("1e-12") * (dg.dot(dg) * dx.dot(dx)).sqrt():
            largest = max(largest, dg.dot(dg) / dg.dot(dx))
    return float(largest)


@_in_digits
def median_distance(X: Any, scale: Any = None, dims: Any = None) -> float:
    """The median of the positive distances between rows; 0 if there is none."""
    squared = _pair_distances(X, scale, dims)
    distances = [float(s.sqrt()) for i, row in enumerate(squared) for s in row[:i] if s > 0]
    return float(np.median(distances)) if distances else 0.0


@_in_digits
def typical_contrast(
    kernel: str | Kernel, X: Any, length: float, scale: Any = None, dims: Any = None
) -> float:
    """h0, the mean of 1 - kappa over pairs of different rows."""
    squared = _pair_distances(X, scale, dims)
    contrasts = 1 - _kappa(kernel)(squared / Decimal(length) ** 2)
    n = len(squared)
    return float(contrasts.sum() / (n * (n - 1)))


def _pair_distances(X: Any, scale: Any, dims: Any) -> np.ndarray:
    """Squared kernel distances of all rows."""
    X, _ = _units(X, X, scale)
    X = X if dims is None else X[:, dims]
    return _distances(X, X)


def candidates(
    settings: GradientEstimator, X: Any, G: Any, scale: Any = None, dims: Any = None
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
    X: Any,
    G: Any,
    previous: Hyperparameters,
    scale: Any = None,
    dims: Any = None,
) -> Hyperparameters:
    """What the estimator takes for these rows: the best of the grid, else what it had, else its
    defaults. `every` must be 1.
    """
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


# -- strategies ------------------------------------------------------------------------------------

#: The true gradient at a point, or None where the evaluation fails.
Gradient = Callable[[Array], Any]


class ReferenceOptEx:
    """A run as plain loops: `rows` is a list of pairs, the optimizer a black box, every estimate
    solved anew.

    Parameters
    ----------
    x0 : array, shape (d,)
    optimizer : object
        FO-OPT, with ``init(x)`` and ``step(x, g, state)``.
    parallelism : int
        N, at least 2.
    estimator : GradientEstimator
        With `history` and `mean`; `kernel_dims` None and `every` 1.
    scale : array, shape (d,), optional

    Attributes
    ----------
    x : array, shape (d,)
        theta_t.
    rows : list of (x, g)
        Oldest first, at most `history` of them.
    window : int
        S, for `verified`.
    steps : int
        Steps of the last round.
    """

    def __init__(
        self,
        x0: Any,
        optimizer: FirstOrderOptimizer,
        parallelism: int,
        estimator: GradientEstimator,
        scale: Any = None,
    ) -> None:
        self.x: Array = np.array(x0, dtype=np.float64)
        self.optimizer, self.N = optimizer, parallelism
        self.settings, self.scale = estimator, scale
        self.state = optimizer.init(self.x)
        self.rows: list[tuple[Array, Array]] = []
        self.hyper = Hyperparameters()
        self.window, self.steps = parallelism, 0

    def estimate(self) -> Callable[[Array], Array]:
        """mu as a function, fitted to the rows as they are; the mean gradient everywhere while all
        rows coincide.
        """
        X, G = (np.array(side) for side in zip(*self.rows, strict=True))
        self.hyper = h = hyperparameters(self.settings, X, G, self.hyper, self.scale)
        if h.length <= 0.0:
            return lambda _: G.mean(0)
        settings, prior = self.settings, self.settings.mean or "constant"
        return Kriging(
            settings.kernel, X, G, h.length, h.noise, prior, h.curvature, self.scale
        ).mean

    def _record(self, pairs: list[tuple[Array, Array | None]]) -> None:
        assert self.settings.history is not None
        kept = [*self.rows, *((x, g) for x, g in pairs if g is not None)]
        self.rows = kept[-self.settings.history :]

    def _rollout(self, steps: int) -> tuple[list[Array], list[Any]]:
        """z_0 .. z_{steps-1} by estimated gradients, and the optimizer's states there."""
        points, states = [self.x], [self.state]
        if self.rows:
            mu = self.estimate()
            for _ in range(steps - 1):
                x, state = self.optimizer.step(points[-1], mu(points[-1]), states[-1])
                points.append(x)
                states.append(state)
        return points, states

    def paper(self, gradient: Gradient) -> None:
        """One round: theta_{t+1} = FO-OPT(z_j, g_j), j the last slot before the first failure."""
        points, states = self._rollout(self.N)
        observed = [gradient(z) for z in points]
        self._record(list(zip(points, observed, strict=True)))
        self.steps = _prefix(observed)
        j = self.steps - 1
        self.x, self.state = self.optimizer.step(points[j], observed[j], states[j])

    def corrected(self, gradient: Gradient) -> None:
        """One round: the first step with g_0, the others with the estimate fitted to the new rows
        too.
        """
        points, _ = self._rollout(self.N)
        observed = [gradient(z) for z in points]
        self._record(list(zip(points, observed, strict=True)))
        self.steps = _prefix(observed)
        x, state = self.optimizer.step(self.x, observed[0], self.state)
        if self.steps > 1:
            mu = self.estimate()
            for _ in range(self.steps - 1):
                x, state = self.optimizer.step(x, mu(x), state)
        self.x, self.state = x, state

    def verified(self, gradient: Gradient) -> None:
        """One round: predict S steps, evaluate N of them, replay while |y_j - z_j| <= 0.6 max |z_i
        - theta_t|; then S grows or shrinks.
        """
        first = not self.rows
        cold = len(self.rows) <= 1
        points, _ = self._rollout(
            min(self.window, rules.COLD_START_WINDOW) if cold else self.window
        )
        at = sorted({round(i) for i in np.linspace(0, len(points) - 1, min(self.N, len(points)))})
        observed = [gradient(points[i]) for i in at]
        g0 = observed[0]
        assert g0 is not None
        usable = 1
        while usable < len(observed) and _accepted(observed[usable], g0):
            usable += 1
        self._record([(points[i], g) for i, g in zip(at[:usable], observed[:usable], strict=True)])
        start, last = self.x, at[usable - 1] + 1
        x, state = self.optimizer.step(start, g0, self.state)
        self.steps, reach = 1, 0.0
        if not first:
            mu = self.estimate()
            while self.steps < last:
                reach = max(reach, self._distance(points[self.steps], start))
                if self._distance(x, points[self.steps]) > rules.TRUST_RADIUS * reach:
                    break
                x, state = self.optimizer.step(x, mu(x), state)
                self.steps += 1
            if self.steps >= len(points):
                self.window = min(rules.LONGEST * self.N, math.ceil(rules.GROWTH * self.window))
            else:
                self.window = max(self.N, math.ceil(rules.SLACK * self.steps))
        self.x, self.state = x, state

    def _distance(self, a: Array, b: Array) -> float:
        return float(np.linalg.norm((a - b) / (1.0 if self.scale is None else self.scale)))


def _prefix(observed: list[Array | None]) -> int:
    """Evaluations before the first failure."""
    usable = 0
    while usable < len(observed) and observed[usable] is not None:
        usable += 1
    return usable


def _accepted(gradient: Array | None, first: Array) -> bool:
    limit = rules.OUTLIER_FACTOR * float(np.linalg.norm(first))
    return gradient is not None and float(np.linalg.norm(gradient)) <= limit


def reference_posterior(posterior: Any) -> Kriging:
    """The same estimate as a fitted `optex_core.model.estimator.Posterior`: its rows, oldest first,
    and its hyperparameters.
    """
    history, settings, hyper = posterior.history, posterior.settings, posterior.hyper
    order, host = history.chronological_order(), history.backend.to_host
    X, G = host(history.X)[order], host(history.G)[order]
    scale = None if history.scale is None else host(history.scale)
    numbers = (hyper.length, posterior.noise, settings.mean, hyper.curvature)
    return Kriging(settings.kernel, X, G, *numbers, scale, history.dims)
