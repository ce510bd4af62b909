"""JAX function as an objective of a flat vector."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from optex_core._validation import callable_
from optex_core.adapters.call_signature import callable_name, takes_seed
from optex_core.errors import MissingExtraError


class JaxFunction:
    """``fun(x) -> (value, gradient)`` by automatic differentiation; made by `jax`. It takes one
    vector (d,), or a batch (n, d).

    Attributes
    ----------
    x0 : ndarray, shape (d,), or None
        The example, flat.
    wants_seed : bool
        Whether the function takes ``seed``.
    """

    def __init__(self, function: Callable[..., object], example: object) -> None:
        self._function, self._example = function, example
        self.x0 = None if example is None else _flatten_example(example)
        self._compiled: dict[bool, Any] = {}
        self._rows = 1  # of a batch: smaller ones are padded
        self.wants_seed = takes_seed(function)

    def value_and_grad(self, x: np.ndarray, *, seed: object = 0) -> tuple[object, np.ndarray]:
        """Value and gradient at x, in x's precision: JAX would compute in float32 by default."""
        import jax as library

        batch, n = x.ndim == 2, len(x)
        seeds = (np.asarray(seed, np.uint64) % np.uint64(1 << 31)).astype(np.int32)
        if batch:
            self.reserve_batch(n)
            last = np.minimum(np.arange(self._rows), n - 1)  # the last row again and again
            x, seeds = x[last], np.broadcast_to(seeds, n)[last]
        with _x64_context(library, x.dtype == np.float64):
            compiled = self._compiled.get(batch)
            if compiled is None:
                compiled = self._compiled[batch] = self._compile(library, batch)
            value, gradient = compiled(x, seeds)
            if batch:
                return np.asarray(value)[:n], np.asarray(gradient)[:n]
            return float(value), np.asarray(gradient)

    __call__ = value_and_grad

    def reserve_batch(self, n: int) -> None:
        """Pad batches to n rows from now on: a batch of another size is compiled anew."""
        self._rows = max(self._rows, n)

    def __repr__(self) -> str:
        return f"JaxFunction({callable_name(self._function)})"

    def _compile(self, library: ModuleType, batch: bool) -> Any:
        parts = None if self._example is None else _unflattener(library, self._example)

        def flat(x: object, seed: object) -> object:
            point = x if parts is None else parts(x)
            return self._function(point, seed=seed) if self.wants_seed else self._function(point)

        both = library.value_and_grad(flat)
        return library.jit(library.vmap(both) if batch else both)

    def __reduce__(self) -> tuple[object, ...]:
        # rebuilt from what was given: compiled code does not travel
        return type(self), (self._function, self._example)


def jax(function: Callable[..., object], example: object = None) -> JaxFunction:
    """Make ``fun`` of a JAX function: a flat vector in, value and gradient out.

    Parameters
    ----------
    function : callable
        Returns one number, and can be traced by JAX. It is given a flat vector, or parameters of
        the structure of `example`. With a keyword-only ``seed`` it is given the seed of the
        evaluation as a traced whole number below 2^31, for ``jax.random.key(seed)``.
    example : tree of arrays, optional
        Dicts, lists and tuples of arrays; the function is then called with this structure, and the
        result's ``x0`` is the example as a vector.

    Returns
    -------
    JaxFunction
        A callable ``fun(x)``, for `minimize` with any workers, or with ``vectorized=True``: then
        batches are padded to `parallelism` rows, so that they compile once.

    Examples
    --------
    ::

        fun = ox.adapters.jax(lambda x: jax.numpy.sum((x[1:] - x[:-1] ** 2) ** 2))
        res = ox.minimize(fun, np.zeros(100), parallelism=4, vectorized=True)
    """
    try:
        import jax as library  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("jax", "jax", "ox.adapters.jax") from error
    return JaxFunction(callable_("function", function), example)


def _x64_context(library: ModuleType, double: bool) -> Any:
    """A context in which JAX keeps float64, if wanted."""
    if hasattr(library, "enable_x64"):
        return library.enable_x64(double)
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64(double)


def _flatten_example(example: object) -> np.ndarray:
    """The leaves of a tree as one vector, in JAX's order."""
    from jax.tree_util import tree_leaves

    return np.concatenate([np.ravel(leaf) for leaf in tree_leaves(example)])


def _unflattener(library: ModuleType, example: Any) -> Callable[[Any], Any]:
    """From a traced flat vector to the structure of `example`."""
    leaves, structure = library.tree_util.tree_flatten(example)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]

    def build(x: Any) -> Any:
        parts = zip(library.numpy.split(x, ends), leaves, strict=True)
        return structure.unflatten([part.reshape(np.shape(leaf)) for part, leaf in parts])

    return build
