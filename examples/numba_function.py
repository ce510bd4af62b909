"""A gradient compiled by Numba: N of them at once, in threads that hold no interpreter lock, or as
one parallel batch.

Run: python examples/numba_function.py
"""

import time

import numpy as np

import optex_core as ox


def bowl_with_ripples(x, terms):
    """Value and gradient, a loop as one would write it in C; compiled by the adapter."""
    value, gradient = 0.0, np.empty_like(x)
    for i in range(x.size):
        slope = x[i]
        for k in range(1, terms):
            slope += 0.1 * np.sin(k * x[i]) * np.exp(-0.1 * k) / terms
        gradient[i] = slope
        value += 0.5 * x[i] * x[i]
    return value, gradient


def main():
    fun, x0 = ox.adapters.numba(bowl_with_ripples, 1_000), np.full(1_000, 2.0)
    ways = {
        "one at a time": {},
        "in threads": {"workers": "threads"},
        "as one batch": {"vectorized": True},
    }
    for name, options in ways.items():
        options |= {"optimizer": ox.SGD(0.3), "parallelism": 2, "maxiter": 12, "rng": 0}
        ox.minimize(fun, x0, **{**options, "maxiter": 2})  # compiles
        begin = time.perf_counter()
        res = ox.minimize(fun, x0, **options)
        seconds = time.perf_counter() - begin
        print(
            f"{name:13}: {res.njev} gradients in {seconds:.2f} s, "
            f"{1e3 * seconds / res.njev:.1f} ms each; value {res.fun:.6g}"
        )
    return res


if __name__ == "__main__":
    main()
