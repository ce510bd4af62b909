"""Settings of the built-in problems that both their own tests and the check suites run through."""

from __future__ import annotations

from typing import Any

#: The simulator's default size costs 30 ms a gradient; all else runs at its defaults.
CHEAP: dict[str, dict[str, Any]] = {"heat_inversion": {"size": 16}}
#: Settings beyond the defaults that take another path through the formulas.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("sphere", {"d": 1}),
    ("quadratic", {"d": 1}),
    ("quadratic", {"d": 7, "condition": 1e4, "rotated": True, "seed": 3}),
    ("rosenbrock", {"d": 2}),
    ("rosenbrock", {"d": 33}),
    ("ackley", {"d": 1}),
    ("levy", {"d": 1}),
    ("levy", {"d": 2}),
    ("griewank", {"d": 1}),
    ("griewank", {"d": 2}),
    ("powell_singular", {"d": 4}),
    ("logistic", {"d": 5, "n": 3, "seed": 2}),
    ("network", {"inputs": 2, "hidden": 1, "n": 4}),
    (
        "heat_inversion",
        {
            "size": 9,
            "experiments": 1,
            "sensors": 2,
            "noise": 0.0,
            "smoothing": 0.1,
            "damping": 0.1,
            "seed": 4,
        },
    ),
]
