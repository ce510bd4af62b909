"""A plain NumPy function: the same optimizer with one gradient a round, and with eight predicted
ones.

Run: python examples/quickstart.py
"""

import numpy as np

import optex_core as ox


def rosenbrock(x):
    """Value and gradient of the Rosenbrock function in any dimension."""
    a = x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * x[:-1] * a - 2 * (1 - x[:-1])
    gradient[1:] += 200 * a
    return 100 * (a @ a) + ((1 - x[:-1]) ** 2).sum(), gradient


def main():
    x0 = np.random.default_rng(0).uniform(-1, 1, 100)
    alone = ox.minimize(rosenbrock, x0, optimizer=ox.Adam(0.05), strategy="sequential", maxiter=200)
    print(f"Adam alone:      {alone.nit:4d} rounds, value {alone.fun:.4g}")

    together = ox.minimize(
        rosenbrock, x0, optimizer=ox.Adam(0.05), parallelism=8, target=alone.fun, maxiter=200, rng=0
    )
    print(
        f"with 8 at once:  {together.nit:4d} rounds, value {together.fun:.4g}  "
        f"({alone.nit / together.nit:.1f} times fewer rounds)"
    )
    assert together.fun <= alone.fun
    return alone, together


if __name__ == "__main__":
    main()
