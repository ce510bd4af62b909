"""The interface of a kernel: a correlation function of one scaled squared distance.

Add a kernel
------------
One new file in this folder. It is found by its `name` and as an attribute of
``optex_core.model.kernels``; ``optex_core.testing.check_kernel("cauchy")`` checks it, and
``GradientEstimator(kernel="cauchy")`` uses it::

    from dataclasses import dataclass
    from typing import ClassVar

    import numpy as np

    from optex_core.model.kernels.base import KERNELS, Kernel


    @KERNELS.register
    @dataclass(frozen=True, slots=True)
    class Cauchy(Kernel):
        '''kappa(s) = 1 / (1 + s).'''

        name: ClassVar[str] = "cauchy"

        def profile(self, s: np.ndarray) -> np.ndarray:
            return 1.0 / (1.0 + s)

        def complement(self, s: np.ndarray) -> np.ndarray:
            return s / (1.0 + s)

`complement` is 1 - kappa(s) by a formula of its own that subtracts no two numbers close to each
other: by algebra as here, by `numpy.expm1` or `numpy.log1p`, or by `power_series` below a border
and `piecewise` around it. It may be omitted: 1 - kappa(s) is then taken literally, with a relative
error of 1e-16 / s. The estimator then loses its long length scales, at which s is small and smooth
functions are predicted best. Arithmetic and NumPy ufuncs alone can be compiled; a method with
branches or table look-ups works as well, one predicted step at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import numpy as np

from optex_core._registry import Registry
from optex_core._validation import short_repr
from optex_core.backends._tracing import Formula, TracingError, trace_expression
from optex_core.errors import ArgumentTypeError

#: Up to so many numbers a power series is summed by a matrix of powers (6 us in place of 17).
MAX_SERIES_SIZE = 256

KERNELS: Registry[type[Kernel]] = Registry("kernel", "optex_core.model.kernels")


class Kernel(ABC):
    """A stationary, isotropic correlation function kappa(s), s = |a - b|^2 / ell^2.

    kappa(0) = 1; kappa decreases and is positive definite in any dimension. Kernels work on
    T0 x T0 host arrays, so they need no version per backend. Equations are those of Rasmussen,
    Williams, Gaussian Processes for Machine Learning, MIT Press 2006.
    """

    name: ClassVar[str]

    @abstractmethod
    def profile(self, s: np.ndarray) -> np.ndarray:
        """kappa(s), float64, the shape of `s`; `s` >= 0."""

    def complement(self, s: np.ndarray) -> np.ndarray:
        """1 - kappa(s). This default cancels for small `s`: the estimator loses long lengths."""
        return 1.0 - self.profile(s)


def piecewise(
    r: np.ndarray,
    border: float,
    below: Callable[[np.ndarray], np.ndarray],
    above: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """``below(r)`` where r < border, else ``above(r)``; only what is needed is computed."""
    near = r < border
    if not hasattr(r, "size"):  # an expression being traced has no entries
        return np.where(near, below(r), above(r))
    some = np.count_nonzero(near)
    if not some:
        return above(r)
    if some == r.size:
        return below(r)
    out = above(r)
    out[near] = below(r[near])
    return out


def power_series(r: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """sum_k c_k r^(k+1)."""
    if getattr(r, "size", MAX_SERIES_SIZE + 1) <= MAX_SERIES_SIZE:
        powers = np.empty((*r.shape, len(coefficients)))
        powers[...] = r[..., None]
        np.multiply.accumulate(powers, axis=-1, out=powers)
        return powers.dot(coefficients)
    total = coefficients[-1] * r
    for c in coefficients[-2::-1]:
        total += c
        total *= r
    return total


def traced_kernel(kernel: Kernel, complement: bool) -> Formula | None:
    """`complement` or `profile` as lines of Python from the number ``s``, to be compiled.

    Intermediate values are called k0, k1, ... None for a kernel that is more than arithmetic and
    ufuncs.
    """
    # Cached for settings that cannot change; others are traced each time (0.3 to 1 ms).
    settings = vars(type(kernel)).get("__dataclass_params__")
    if settings is not None and settings.frozen:
        try:
            return _cached_trace(kernel, complement)
        except TypeError:  # settings that are arrays have no hash
            pass
    return _trace(kernel, complement)


def _trace(kernel: Kernel, complement: bool) -> Formula | None:
    try:
        return trace_expression(kernel.complement if complement else kernel.profile)
    except TracingError:
        return None


_cached_trace = lru_cache(maxsize=64)(_trace)


def get_kernel(kernel: str | Kernel) -> Kernel:
    """A kernel from its registered name, or the object itself."""
    if isinstance(kernel, Kernel):
        return kernel
    if not isinstance(kernel, str):
        raise ArgumentTypeError(
            f"kernel must be a name or an optex_core Kernel, got {short_repr(kernel)}"
        )
    return KERNELS[kernel]()
