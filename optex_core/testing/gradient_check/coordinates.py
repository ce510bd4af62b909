"""Single entries of a gradient: some compared one by one, and the worst of all found by halving."""

from __future__ import annotations

import numpy as np

from optex_core.testing.gradient_check.directional import (
    LENGTHS,
    Both,
    gradient_is_stale,
    integrate_segment,
)

#: Coordinates looked at one by one, to say where an error sits.
COORDINATES = 20

#: Index, gradient entry, central difference.
Row = tuple[int, float, float]


def check_coordinates(
    both: Both,
    x: np.ndarray,
    f: float,
    g: np.ndarray,
    scale: np.ndarray,
    eps: float,
    tolerance: float,
    noise: float,
    generator: np.random.Generator,
) -> tuple[tuple[Row, ...], int, int]:
    """Central differences of single coordinates, half of them the largest of the gradient, half
    drawn, the worst first.

    With them how many are wrong, and how many were moved without any change of the gradient
    although the function bends.

    Along a direction, the large entries drown an error in a small one. Here each entry is compared
    with its own size, and an entry counts as wrong only if its gap exceeds ten times what halving
    the step changes, and what rounding and noise may hide.
    """
    if len(x) <= COORDINATES:
        chosen = np.arange(len(x))
    else:
        large = np.argsort(-np.abs(g) * scale, kind="stable")[: COORDINATES // 2]
        others = np.setdiff1d(np.arange(len(x)), large)
        chosen = np.concatenate(
            [large, generator.choice(others, COORDINATES - len(large), replace=False)]
        )
    rows, frozen = [], 0
    for i in chosen:
        differences = []
        size = 0.0
        for h in (eps ** (1 / 3) * scale[i], 0.5 * eps ** (1 / 3) * scale[i]):
            up, down = x.copy(), x.copy()
            up[i] += h
            down[i] -= h
            high, low = both(up), both(down)
            differences.append((high[0] - low[0]) / float(up[i] - down[i]))
            size = max(size, abs(high[0]), abs(low[0]))
        frozen += gradient_is_stale(f, high, low, eps, noise)
        gap, doubt = abs(g[i] - differences[1]), abs(differences[0] - differences[1])
        hidden = max(1e3 * eps * size, 20 * noise) / (eps ** (1 / 3) * scale[i])
        wrong = gap > max(10 * doubt + hidden, tolerance * abs(g[i]))
        rows.append((bool(wrong), float(gap * scale[i]), (int(i), float(g[i]), differences[1])))
    rows.sort(key=lambda row: (not row[0], -row[1]))
    return tuple(row[2] for row in rows), sum(row[0] for row in rows), frozen


def worst_coordinate(
    both: Both, x: np.ndarray, v: np.ndarray, eps: float, noise: float
) -> Row | None:
    """The entry with the largest error, by halving the set of coordinates: nine evaluations for
    every factor of two in d.

    None where the error does not sit in single entries: the gap of the last one is then a small
    part of its own slope.
    """
    inside = np.arange(len(x))
    length = LENGTHS[1]
    while len(inside) > 1:
        halves = inside[: len(inside) // 2], inside[len(inside) // 2 :]
        gaps = []
        for half in halves:
            part = np.zeros_like(v)
            part[half] = v[half]
            one = integrate_segment(both, x, part, length, eps, noise, 0.0)
            gaps.append(0.0 if one is None else one.gap)
        inside = halves[int(gaps[1] > gaps[0])]
    i = int(inside[0])
    part = np.zeros_like(v)
    part[i] = v[i]
    one = integrate_segment(both, x, part, length, eps, noise, 0.0)
    if one is None or not one.wrong or one.relative < 1e-3:
        return None
    h = eps ** (1 / 3)
    (high, _), (low, _) = both(x + h * part), both(x - h * part)
    return i, float(both(x)[1][i]), float((high - low) / (2 * h * v[i]))
