"""Stochastic gradients: each evaluation gets a seed of its own, and the default strategy finds out
by itself that gradients are noisy.

Run: python examples/noisy_gradients.py
"""

import numpy as np

import optex_core as ox

CURVATURES = np.logspace(0, -2, 200)


def oracle(x, *, seed):
    """The gradient of a quadratic with noise as long as the first gradient; the seed makes it
    repeatable.
    """
    noise = np.random.default_rng(seed).standard_normal(len(x))
    return 0.5 * (CURVATURES * x) @ x, CURVATURES * x + 0.5 * noise


def main():
    x0 = np.random.default_rng(1).standard_normal(len(CURVATURES))
    values = {}
    for strategy in ("sequential", "data_parallel", "auto"):
        res = ox.minimize(
            oracle, x0, optimizer=ox.SGD(1.0), parallelism=8, strategy=strategy, maxiter=60, rng=0
        )
        values[strategy] = 0.5 * (CURVATURES * res.x) @ res.x
        print(f"{strategy:14s} {res.njev:4d} gradients, value without noise {values[strategy]:.3g}")
    assert values["auto"] < values["sequential"]
    return values


if __name__ == "__main__":
    main()
