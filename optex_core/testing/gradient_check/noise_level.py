"""The noise of numbers that should be smooth, by difference tables, and the rounding of values with
few digits.

References
----------
More, Wild, Estimating computational noise, SIAM J. Sci. Comput. 33, 2011, algorithm ECnoise.
"""

from __future__ import annotations

import math

import numpy as np

#: Equally spaced evaluations that an estimate takes.
POINTS = 8
#: Digits and bits that rounded values have at most; of float64's 17 and 53, by chance, one value in
#: 10^5 and 2^13 has no more.
ROUNDED_DIGITS, ROUNDED_BITS = 12, 40


def noise_level(values: np.ndarray) -> float:
    """The standard deviation of the noise in six or more equally spaced values of a smooth
    function; nan where one is not finite.

    sigma_k^2 = (k!)^2 / (2k)! mean((Delta^k f)^2): differences of order k remove a polynomial and
    leave the noise, at every high enough order the same. Taken is the first order whose estimate
    agrees with the next two within a factor of four and whose differences change their sign; where
    no order settles the smallest estimate, an upper bound.

    >>> t = np.arange(8.0)
    >>> noise = np.array([1, -1, 1, 1, -1, 1, -1, -1]) * 1e-6
    >>> 3e-7 < noise_level(1 + t + noise) < 3e-6
    True
    """
    if not np.isfinite(values).all():
        return math.nan
    table, factor, levels, signs = values.astype(np.float64), 1.0, list[float](), list[bool]()
    for k in range(1, len(table)):
        table = np.diff(table)
        factor *= k / (2 * (2 * k - 1))
        levels.append(math.sqrt(factor * float(np.mean(table**2))))
        signs.append(bool(table.min() < 0.0 < table.max()))
    for k in range(len(levels) - 2):
        three = levels[k : k + 3]
        if signs[k] and max(three) <= 4 * min(three):
            return three[0]
    return min(levels)


def rounding_level(values: np.ndarray) -> float:
    """The standard deviation of the rounding of values that have fewer digits than float64 holds;
    0 for others, of which fewer than five are different, or not all finite.

    A quantum q at the largest value is a noise of q / 12^(1/2). Points that are closer than q
    show none of it: their values are equal.

    >>> values = np.sqrt(np.arange(2.0, 10.0))
    >>> rounding_level(values)
    0.0
    >>> 2e-4 < rounding_level(np.round(values, 3)) < 3e-4
    True
    """
    found = sorted({abs(float(value)) for value in values if value})
    if len(found) < 5 or not np.isfinite(values).all():
        return 0.0
    quanta = []
    digits = max(len(f"{value!r}".partition("e")[0].replace(".", "").strip("0")) for value in found)
    if digits <= ROUNDED_DIGITS:
        quanta.append(10.0 ** (math.floor(math.log10(found[-1])) + 1 - digits))
    odd = [value.as_integer_ratio()[0] for value in found]
    bits = max((one // (one & -one)).bit_length() for one in odd)
    if bits <= ROUNDED_BITS:
        quanta.append(2.0 ** (math.frexp(found[-1])[1] - bits))
    return min(quanta, default=0.0) / math.sqrt(12)
