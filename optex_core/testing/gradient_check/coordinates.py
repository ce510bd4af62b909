"""Single entries of a gradient: some compared one by one, and the worst of all found by halving."""

from __future__ import annotations

import dataclasses

import numpy as np

from optex_core.testing.gradient_check.directional import (
    LENGTHS,
    Site,
    gradient_is_stale,
    integrate_segment,
)

#: Coordinates looked at one by one, to say where an error sits.
COORDINATES = 20

#: Index, gradient entry, central difference.
Row = tuple[int, float, float]


def check_coordinates(
    site: Site, scale: np.ndarray, rng: np.random.Generator
) -> tuple[tuple[Row, ...], int, int]:
    """Central differences of single coordinates, half of them the largest of the gradient, half
    drawn, the worst first.

    With them how many are wrong, and how many were moved without any change of the gradient
    although the function bends.

    Along a direction, the large entries drown an error in a small one. Here each entry is compared
    with its own size, and an entry counts as wrong only if its gap exceeds ten times what halving
    the step changes, and what rounding and noise may hide.
    """
    function, x, g, p = site.function, site.x, site.g, site.p
    chosen = np.arange(len(x))
    if len(x) > COORDINATES:
        large = np.argsort(-np.abs(g) * scale, kind="stable")[: COORDINATES // 2]
        drawn = rng.choice(np.setdiff1d(chosen, large), COORDINATES - len(large), replace=False)
        chosen = np.concatenate([large, drawn])
    rows, stale = [], 0
    for i in chosen:
        differences, size, step = [], 0.0, p.eps ** (1 / 3) * scale[i]
        for h in (step, 0.5 * step):
            up, down = x.copy(), x.copy()
            up[i] += h
            down[i] -= h
            high, low = function(up), function(down)
            differences.append((high[0] - low[0]) / float(up[i] - down[i]))
            size = max(size, abs(high[0]), abs(low[0]))
        stale += gradient_is_stale(site, high, low)
        gap, doubt = abs(g[i] - differences[1]), abs(differences[0] - differences[1])
        hidden = max(1e3 * p.eps * size, 20 * p.noise) / step
        wrong = gap > max(10 * doubt + hidden, p.tolerance * abs(g[i]))
        rows.append((bool(wrong), float(gap * scale[i]), (int(i), float(g[i]), differences[1])))
    rows.sort(key=lambda row: (not row[0], -row[1]))
    return tuple(row[2] for row in rows), sum(row[0] for row in rows), stale


def worst_coordinate(site: Site, v: np.ndarray) -> Row | None:
    """The entry with the largest error beside x, by halving the set of coordinates: eight
    evaluations for every half.

    None where the error does not sit in single entries: the gap of the last one is then a small
    part of its own slope.
    """
    site = dataclasses.replace(site, p=dataclasses.replace(site.p, gradient_noise=0.0))
    function, x = site.function, site.x

    def part(indices: np.ndarray) -> np.ndarray:
        only = np.zeros_like(v)
        only[indices] = v[indices]
        return only

    inside = np.arange(len(x))
    while len(inside) > 1:
        halves = inside[: len(inside) // 2], inside[len(inside) // 2 :]
        found = [integrate_segment(site, part(half), LENGTHS[1]) for half in halves]
        gaps = [0.0 if one is None else one.gap for one in found]
        inside = halves[int(gaps[1] > gaps[0])]
    i, along = int(inside[0]), part(inside)
    one = integrate_segment(site, along, LENGTHS[1])
    if one is None or not one.wrong or one.relative < 1e-3:
        return None
    h, base = site.p.eps ** (1 / 3), x + 2 * LENGTHS[1] * along
    high, low = function(base + h * along)[0], function(base - h * along)[0]
    return i, float(function(base)[1][i]), float((high - low) / (2 * h * v[i]))
