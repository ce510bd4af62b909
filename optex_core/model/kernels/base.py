"""What a kernel is: a correlation that depends on one scaled squared distance."""

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

#: Up to so many numbers a power series is summed by a matrix of powers.
MAX_SERIES_SIZE = 256

KERNELS: Registry[type[Kernel]] = Registry("kernel", "optex_core.model.kernels")


class Kernel(ABC):
    """A stationary, isotropic correlation kappa(s), s = |a - b|^2 / ell^2, with kappa(0) = 1,
    decreasing, positive definite in any dimension.

    A subclass is a frozen dataclass with a `name`, registered with ``@KERNELS.register``, that
    gives `profile`; one that also gives `complement` keeps its digits between close points. Kernels
    work on T0 x T0 host arrays, so they need no version per backend.
    """

    name: ClassVar[str]

    @abstractmethod
    def profile(self, s: np.ndarray) -> np.ndarray:
        """kappa(s), float64, the shape of `s`; `s` >= 0."""

    def complement(self, s: np.ndarray) -> np.ndarray:
        """1 - kappa(s) without cancellation for small `s`; this default has it, and costs the
        estimator its long lengths.
        """
        return 1.0 - self.profile(s)


def piecewise(
    r: np.ndarray,
    border: float,
    below: Callable[[np.ndarray], np.ndarray],
    above: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """``below(r)`` where r < border, else ``above(r)``; only what is needed is computed (this is
    called once per predicted step).
    """
    near = r < border
    if not hasattr(r, "size"):  # a formula being written down has no entries to look at
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
    """sum_k c_k r^(k+1). For one row of distances all powers at once: three calls in place of two
    per term (6 us against 17).
    """
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
    """`complement` or `profile` as lines of Python from the number ``s``, values on the way called
    k0, k1, ...: what compiled loops are made of.

    None for a kernel that is more than arithmetic and ufuncs; its methods are then called on arrays
    as ever.
    """
    # Remembered for what cannot change; one whose settings can is written down anew each time (0.3
    # to 1 ms), as its methods read them each time.
    settings = vars(type(kernel)).get("__dataclass_params__")
    if settings is not None and settings.frozen:
        try:
            return _cached_trace(kernel, complement)
        except TypeError:  # settings that are arrays have no hash
            pass
    return _trace(kernel, complement)


def _trace(kernel: Kernel, complement: bool) -> Formula | None:
    try:
        return trace_expression(kernel.complement if complement else kernel.profile, "k")
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
