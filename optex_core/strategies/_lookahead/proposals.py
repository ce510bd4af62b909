"""Points of a round: who proposes them, how slots are shared, and what a round teaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.strategies._lookahead.gradient_kriging import GradientKriging
from optex_core.strategies._lookahead.lbfgs_path import path_matrix, predicted_path, star_matrix
from optex_core.strategies._lookahead.multisecant import MultisecantModel
from optex_core.strategies._lookahead.potential import PotentialKriging
from optex_core.strategies._lookahead.rows import Coordinates, Rows
from optex_core.strategies._lookahead.state import LookaheadState
from optex_core.strategies._lookahead.wolfe_search import WolfeSearch
from optex_core.strategies.base import EngineView, Observation
from optex_core.types import Array

#: A path has at most MAX_STEPS_PER_SLOT N steps.
MAX_STEPS_PER_SLOT = 8
#: Who proposes points; the first two walk on a model of the gradient.
PROPOSERS = ("kriging", "potential", "multisecant")
MODELS: tuple[Callable[..., GradientKriging | PotentialKriging], ...] = (
    GradientKriging,
    PotentialKriging,
)
#: Record of a proposer: weight of the past when it was tried, pull towards 1 when it was not.
FORGET, RETURN = 0.7, 0.9
#: Lengths of the unit step, and radii of the trust region, in the order in which slots are filled.
STEP_FACTORS = (0.3, 3, 0.1, 10, 0.03, 30, 0.01, 100, 0.5, 2, 0.2, 5, 0.05, 20, 0.7)
RADII = (1, 0.25, 4, 0.06, 16, 0.5, 2)
#: From this N on, this share of the slots of the second round gets a random vector, RANDOM_LENGTH
#: times as long as the unit step, added to the expected point: starting vectors of a block Krylov
#: space, whose products with the Hessian the points of later rounds continue.
RANDOM_N, RANDOM_SHARE, RANDOM_LENGTH = 16, 0.375, 0.3
#: From this N on so do slots where they complete the space, one slot has the unit step with the
#: pairs of all rows, and a path ends at EXTENT times the distance of the farthest row from x: what
#: models say farther away led to plateaus and other minima. Fewer slots have none to spare.
MANY_SLOTS, EXTENT = 8, 2.0
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class ProposedPoint:
    """A point to evaluate: its coordinates, who proposed it, and what that one needs to know.

    `offset` is the length of a random vector of shape (d,) that is added to the point.
    """

    z: np.ndarray
    proposer: str
    step: int = 1
    size: float = 0.0
    fall: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What `advance` must know of a round."""

    candidates: list[ProposedPoint]
    ends: dict[str, int]
    unit: float
    gram: np.ndarray
    scales: np.ndarray
    repeats: bool


#: A point, what was observed there, and why it was proposed.
Evaluated = tuple[Array, Observation, ProposedPoint]


def free_parameters(view: EngineView, rows: Rows) -> np.ndarray | None:
    """Which parameters may move; None if all may.

    Those at a bound that the gradient pushes against may not.
    """
    x, g = rows.x, rows.g
    if view.project(x) is x:  # no bounds
        return None
    xp = view.backend.xp
    held = view.project(x - xp.sign(g) * (1 + xp.abs(x))) == x
    held &= g != 0
    if not bool(held.any()):
        return None
    return ~view.backend.to_host(held)


def parameter_classes(x: np.ndarray, g: np.ndarray, N: int) -> np.ndarray | None:
    """Class of each parameter, numbered from 0: in one class starts and gradients are equal.

    Where exchanging the parameters of a class leaves the function as it is, all its iterates are
    equal in them too: the number of classes is that of the parameters that are there in effect.
    None where no vector is random with N slots: 1,000 parameters show that without sorting all.
    """
    if N < MANY_SLOTS:
        return None
    pairs, digits = np.empty(len(x), np.complex128), np.finfo(g.dtype).precision - 2
    for part, v in ((pairs.real, x), (pairs.imag, g)):
        part[:] = np.round(v / (np.abs(v).max() or 1.0), digits)
    if N < RANDOM_N and len(np.unique(pairs[:1000])) - 1 > int(RANDOM_SHARE * N):
        return None
    return np.unique(pairs, return_inverse=True)[1]


class SlotList:
    """The points of a round: finite ones that differ from those before, until slots run out."""

    def __init__(self, slots: int) -> None:
        self.slots, self.points = slots, list[ProposedPoint]()

    def put(
        self, z: np.ndarray, proposer: str, step: int = 1, size: float = 0.0, fall: float = 0.0
    ) -> None:
        """Take a slot for the point at `z`, if one is free."""
        others = (c.z for c in self.points)
        new = all(np.linalg.norm(z - z1) > 1e-3 * np.linalg.norm(z1) for z1 in others)
        if len(self.points) < self.slots and new and np.isfinite(z).all():
            size = size or float(np.linalg.norm(z))
            self.points.append(ProposedPoint(z, proposer, step, size, fall))

    def put_on_path(self, path: list[np.ndarray], proposer: str, step: int) -> None:
        """Take a slot for the point after so many steps of a path."""
        self.put(path[step], proposer, step, step_size(path, step))


def propose(
    known: Coordinates, s: LookaheadState, N: int, *, repeats: bool, distinct: int
) -> RoundPlan | None:
    """At most N points in coordinates; None where no step is left.

    Parameters
    ----------
    known : Coordinates
    s : LookaheadState
    N : int
    repeats : bool
        One slot is taken by a repetition of x.
    distinct : int
        Number of `parameter_classes` in the second round, 0 without.
    """
    unit = lbfgs_step(known, s.max_step)
    if unit is None:
        return None
    slots, size = SlotList(N - 1 if repeats else N), float(np.linalg.norm(unit))
    paths: dict[str, list[np.ndarray]] = {}
    scales = np.full(2, -1)
    if len(known.X) > 1:
        fill_from_models(slots, paths, scales, known, s, unit, N)
    randoms = random_slots(distinct, N)
    slots.slots -= randoms
    for t in (1, *STEP_FACTORS):
        slots.put(t * unit, "line")
    random = ProposedPoint(unit, "random", size=size, offset=RANDOM_LENGTH * size)
    ends = {name: len(path) - 1 for name, path in paths.items()}
    return RoundPlan(slots.points + [random] * randoms, ends, size, known.gram, scales, repeats)


def lbfgs_step(known: Coordinates, max_step: float) -> np.ndarray | None:
    """The unit L-BFGS step of the accepted path, or where it fails that of steepest descent."""
    X, G, mark = known.X, known.G, known.mark
    for pairs in (slice(None), slice(-1, None)):
        matrix = path_matrix(X[pairs], G[pairs], mark[pairs])
        path = predicted_path(None, matrix, 1, G[-1], max_step)
        if len(path) > 1:
            return path[1] if np.linalg.norm(path[1]) else None
    return None


def fill_from_models(
    slots: SlotList,
    paths: dict[str, list[np.ndarray]],
    scales: np.ndarray,
    known: Coordinates,
    s: LookaheadState,
    unit: np.ndarray,
    N: int,
) -> None:
    """Fill the slots: ends of paths and trust-region steps, the unit step, other lengths of it,
    then more points of the paths. `paths` and `scales` are filled as well.
    """
    X, G, g = known.X, known.G, known.G[-1]
    extent = EXTENT * float(np.sqrt((X * X).sum(1).max())) if N >= MANY_SLOTS else np.inf
    records = dict(zip(PROPOSERS, s.records, strict=True))
    names = sorted(PROPOSERS if len(X) > 3 else PROPOSERS[:1], key=lambda k: -records[k])
    within: list[tuple[str, int]] = []
    for name, share in zip(names, shares(slots.slots - 1 - N // 8, len(names)), strict=True):
        if not share:
            continue
        if name == "multisecant":
            secants = fitted(MultisecantModel, X, G)
            if secants is not None:
                for t in RADII[:share]:
                    z, fall = secants.step(t * (s.radius or s.max_step))
                    slots.put(z, name, fall=fall)
            continue
        i = PROPOSERS.index(name)
        steps = int(s.windows[i]) or N
        model = fitted(MODELS[i], X, G, int(s.scales[i]))
        if model is None:
            continue
        scales[i] = model.choice
        matrix = star_matrix(X, G, steps + 1)
        path = paths[name] = predicted_path(model, matrix, steps, g, s.max_step, extent)
        for j in spread(len(path) - 1, share):
            if j == len(path) - 1:
                slots.put_on_path(path, name, j)
            else:
                within.append((name, j))
    slots.put(unit, "line")
    if N >= MANY_SLOTS:
        for z in predicted_path(None, star_matrix(X, G, 1), 1, g, s.max_step)[1:]:
            slots.put(z, "star")
    for t in STEP_FACTORS[: N // 8]:
        slots.put(t * unit, "line")
    for name, j in within:
        slots.put_on_path(paths[name], name, j)
    best = next((name for name in names if len(paths.get(name, ())) > 1), None)
    if best is not None:  # slots that are left
        for j in spread(len(paths[best]) - 1, 2 * N):
            slots.put_on_path(paths[best], best, j)


def shares(slots: int, proposers: int) -> list[int]:
    """Half of the slots for the first, half of what is left for each further one, the last all."""
    found = []
    for i in range(proposers):
        found.append(max(0, slots if i == proposers - 1 else (slots + 1) // 2))
        slots -= found[-1]
    return found


def random_slots(distinct: int, N: int) -> int:
    """How many slots get a random vector: those that complete the space, or a share of many."""
    most = int(RANDOM_SHARE * N) if distinct else 0
    if distinct - 1 <= most:
        return max(distinct - 1, 0)
    return most if N >= RANDOM_N else 0


def fitted(kind: Callable[..., M], *arguments: object) -> M | None:
    """The model; None where the rows' numbers defeat linear algebra: its slots go to others."""
    try:
        return kind(*arguments)
    except np.linalg.LinAlgError:
        return None


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices of a path of `length` steps, equally spaced, the end first."""
    if not length:
        return []
    at = np.ceil(length * np.arange(1, count + 1) / count - 1e-9).astype(int)
    return [int(j) for j in np.unique(at)[::-1]]


def step_size(path: list[np.ndarray], j: int) -> float:
    """The longer of the first step and of step j."""
    return float(max(np.linalg.norm(path[1]), np.linalg.norm(path[j] - path[j - 1])))


def learn(s: LookaheadState, plan: RoundPlan, found: list[Evaluated], N: int) -> LookaheadState:
    """Records of the proposers, lengths of the paths and the trust region after a round."""
    f, lowest = s.value, min((one.value for _, one, _ in found), default=np.inf)
    fell = lowest < f
    drops = dict.fromkeys((candidate.proposer for candidate in plan.candidates), 0.0)
    for _, one, candidate in found:
        drops[candidate.proposer] = max(drops[candidate.proposer], f - one.value)
    records = s.records.copy()
    for i, name in enumerate(PROPOSERS):
        if name in drops:
            share = drops[name] / (f - lowest) if fell else 0.0
            records[i] = FORGET * records[i] + (1 - FORGET) * share
        else:
            records[i] = RETURN * records[i] + 1 - RETURN
    windows = s.windows.copy()
    for name, length in plan.ends.items():
        mine = [(one.value, c.step) for _, one, c in found if c.proposer == name]
        if mine and fell:
            value, j = min(mine)
            i = PROPOSERS.index(name)
            window = int(windows[i]) or N
            if not value < f:
                windows[i] = max(N, window // 2)
            elif j == length and j >= window:
                windows[i] = min(MAX_STEPS_PER_SLOT * N, 2 * window)
            else:
                windows[i] = max(N, int(np.ceil(1.2 * j)))
    radius = s.radius
    trials = [(one.value, c.fall, c.size) for _, one, c in found if c.proposer == "multisecant"]
    if trials:
        value, fall, size = min(trials)
        ratio = (f - value) / max(fall, 1e-300)
        sizes = [trial[2] for trial in trials]
        if not value < f:
            radius = 0.25 * min(sizes)
        elif size >= 0.99 * max(sizes) and ratio > 0.5:
            radius = 4 * size
        else:
            radius = 2 * size if ratio > 0.7 else size if ratio > 0.1 else 0.5 * size
    return replace(s, records=records, windows=windows, radius=radius)


def first_trial(view: EngineView, rows: Rows) -> tuple[WolfeSearch, Rows] | None:
    """The line search along the L-BFGS direction, and the rows with the products found for it.

    None where no direction falls.

    Parameters at a bound that the direction would leave are held for it.
    """
    backend = view.backend
    x, gradient = (backend.to_host(v).astype(np.float64) for v in (rows.x, rows.g))
    free = free_parameters(view, rows)
    steepest = -gradient if free is None else np.where(free, -gradient, 0.0)
    steepest *= min(1.0, 1 / max(float(np.linalg.norm(steepest)), 1e-300))
    direction = np.zeros_like(x)
    while free is None or free.any():
        with blas_single_threaded(len(rows.order) ** 2):
            known = Coordinates(rows, backend, free)
        rows = replace(rows, gram=known.gram)
        p = -path_matrix(known.X, known.G, known.mark).direction(known.G[-1])
        (end,) = known.lift(p[None])
        direction = backend.to_host(end).astype(np.float64) - x
        if free is None:
            break
        leaving = (direction != 0) & (backend.to_host(view.project(end)) == x)
        if not leaving.any():
            break
        free, direction = free & ~leaving, np.zeros_like(x)
    for p in (direction, steepest):
        slope = float(p @ gradient)
        if slope < 0 and np.isfinite(p).all():
            return WolfeSearch(p, slope=slope), rows
    return None
