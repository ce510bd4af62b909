"""Problems of the benchmark: sparse and dense logistic regression, compiled, and a smooth
non-convex function with exact gradients.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from optex_core.async_sgd.hogwild import DenseSamples, SparseSamples


@lru_cache(maxsize=1)
def _samples() -> tuple[Any, Any]:
    import numba

    @numba.njit(nogil=True)
    def sparse(x: Any, i: Any, index: Any, entry: Any, data: Any) -> Any:
        columns, entries, labels = data
        m = columns.shape[1]
        z = 0.0
        for j in range(m):
            z += entries[i, j] * x[columns[i, j]]
        z *= labels[i]
        # log(1 + exp(-z)) and its derivative, without overflow on either side.
        small = np.exp(-abs(z))
        value = np.log1p(small) - min(z, 0.0)
        slope = -labels[i] * (1.0 / (1.0 + small) if z < 0.0 else small / (1.0 + small))
        for j in range(m):
            index[j] = columns[i, j]
            entry[j] = slope * entries[i, j]
        return m, value

    @numba.njit(nogil=True)
    def dense(x: Any, i: Any, out: Any, data: Any) -> Any:
        rows, labels = data
        z = 0.0
        for k in range(len(x)):
            z += rows[i, k] * x[k]
        z *= labels[i]
        small = np.exp(-abs(z))
        value = np.log1p(small) - min(z, 0.0)
        slope = -labels[i] * (1.0 / (1.0 + small) if z < 0.0 else small / (1.0 + small))
        for k in range(len(x)):
            out[k] = slope * rows[i, k]
        return value

    return sparse, dense


def sparse_logistic(n: int, d: int, width: int, seed: int = 0) -> SparseSamples:
    """n rows of length d with `width` normal entries of squared sum about 1; labels of a linear
    model, a tenth of them flipped.

    Columns are drawn with frequencies that fall as a power of their rank, as those of words do: the
    common ones are where cores meet.
    """
    rng = np.random.default_rng(seed)
    columns = np.minimum((d * rng.random((n, width)) ** 1.5).astype(np.int64), d - 1)
    entries = rng.standard_normal((n, width)) / np.sqrt(width)
    truth = rng.standard_normal(d)
    labels = np.sign((entries * truth[columns]).sum(1) + 1e-12)
    labels[rng.random(n) < 0.1] *= -1
    return SparseSamples(_samples()[0], n, width, (columns, entries, labels))


def dense_logistic(n: int, d: int, seed: int = 0) -> DenseSamples:
    """n normal rows of length d and squared norm about 1; labels of a linear model."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) / np.sqrt(d)
    return DenseSamples(_samples()[1], n, (rows, np.sign(rows @ rng.standard_normal(d) + 1e-12)))


def wells(x: np.ndarray) -> tuple[float, np.ndarray]:
    """f = sum x^2 / (2 (1 + x^2)): smooth with L = 1, bounded by d / 2, not convex; value and exact
    gradient.
    """
    square = x * x
    return float((square / (2 * (1 + square))).sum()), x / (1 + square) ** 2
