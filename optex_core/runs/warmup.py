"""Compilation of all kernels that a run will need, before it matters."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import one_of, reject_unknown_keywords, sequence
from optex_core.backends import get_backend
from optex_core.engine.optex import OptEx
from optex_core.strategies._subspace.space import SUBSPACE_MIN_SIZE
from optex_core.types import FirstOrderOptimizer


@reject_unknown_keywords
def warm_up(
    optimizer: str | FirstOrderOptimizer = "adam",
    *,
    dtype: str | Sequence[str] = ("float32", "float64"),
    backend: str = "numba",
) -> float:
    """Compile, or load from disk, all kernels that a run will need, and the optimizer's rule.

    Without it the first round does so: about 5 s of processor time once per machine for one dtype,
    then 0.5 s in every later process. Small problems (NumPy) compile nothing.

    Parameters
    ----------
    optimizer : str or object, default "adam"
        As `minimize` takes it; the rule depends on its kind, not on its numbers.
    dtype : str or sequence of str, default ("float32", "float64")
        Of the parameters.
    backend : str, default "numba"

    Returns
    -------
    float
        Seconds taken.

    Raises
    ------
    BackendError
        If the backend does not work here.

    Examples
    --------
    >>> import optex_core as ox
    >>> ox.warm_up("adam", dtype="float32", backend="numpy") >= 0.0
    True
    """
    begin = time.perf_counter()
    library = get_backend(backend)
    for kind in _dtype_names(dtype):
        # From some size on (a history has 20 rows at least), steps that are affine in the gradient
        # are taken on coefficients, by other kernels. Short vectors are NumPy's.
        large = max(4_096, -(-SUBSPACE_MIN_SIZE // 20))
        for strategy, d in itertools.product(("paper", "verified"), (5, large)):
            x: ArrayLike = library.copy_in(np.linspace(1.0, 2.0, d), np.dtype(kind))
            engine = OptEx(
                x, optimizer=optimizer, strategy=strategy, parallelism=3, backend=backend,
                maxiter=4, rng=0,
            )  # fmt: skip
            while not engine.stop():
                for c in engine.ask():
                    engine.tell(c.id, gradient=c.x, value=1.0)
    return time.perf_counter() - begin


def _dtype_names(dtype: Any) -> list[str]:
    """The dtypes by name; what Numba and the engine have no kernels for is refused."""
    names, one = [], isinstance(dtype, (str, type, np.dtype))
    for kind in (dtype,) if one else sequence("dtype", dtype, "names of dtypes"):
        try:
            name = np.dtype(kind).name
        except Exception:  # TypeError, and what else NumPy says to what is no dtype
            name = kind
        names.append(one_of("dtype", name, ("float32", "float64")))
    return names
