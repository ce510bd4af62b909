"""L-BFGS paths on the model, from the lowest evaluated point: no learning rate, no rising value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar

import numpy as np

from optex_core._validation import integer, short_repr
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.errors import ArgumentError
from optex_core.strategies._lookahead.lbfgs_path import GROWTH
from optex_core.strategies._lookahead.proposals import (
    Evaluated,
    first_trial,
    free_parameters,
    learn,
    parameter_classes,
    propose,
)
from optex_core.strategies._lookahead.rows import Coordinates, Rows
from optex_core.strategies._lookahead.state import LookaheadState
from optex_core.strategies._lookahead.wolfe_search import WolfeSearch
from optex_core.strategies._noise import (
    EXACT,
    NOISY,
    UNKNOWN,
    noisy_rule,
    repeats_exactly,
    strong_noise,
)
from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
)
from optex_core.types import Array

#: Rows kept: max(ROWS, ROWS_PER_SLOT N).
ROWS, ROWS_PER_SLOT = 96, 6
#: Of the random vectors, which have the same bits in every run. No start is made of it: with 0, the
#: first vector was the way from a start of `default_rng(0)` to a minimum at 0.
RANDOM_SEED = 2402_11427
#: Rounds without a lower value after which nothing lower is expected.
MOST_FAILURES = 40


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Lookahead(Strategy):
    """OptEx over L-BFGS: every round starts from the lowest evaluated point and its true gradient.

    A round with N > 1, from x:

    1. Coordinates of the span of all rows; all that follows works on vectors of length <= 2 n - 1.
    2. Proposers: virtual L-BFGS steps on the kriging mean of all rows ("kriging") and on a process
       of the value's gradients with the nearest rows ("potential"), and trust-region steps of a
       multisecant model ("multisecant"). Paths begin with the pairs (x - x_i, g - g_i), the nearest
       last; each step is at most 2 x the one before.
    3. Slots: one for the unit L-BFGS step of the accepted path, N // 8 for other lengths of it (a
       line search in one round), half of the rest for the proposer with the best record, half of
       what remains for the second, the rest for the third. From N = 8 on a path ends at twice the
       distance of the farthest row. The second round, in which no proposer has a model yet, has
       lengths of the first step and, from N = 16 on, the expected point with random vectors added;
       from N = 8 on where these complete the space. Parameters with equal starts and gradients get
       equal components: a symmetry of the function is kept.
    4. The lowest value below f is the next x, so values never rise and no trust test is needed. A
       path whose end won gets twice as many steps; the longest step is 2 x the winning one, a
       quarter and less of it after a round without a lower value.

    With N = 1: L-BFGS with a weak Wolfe line search, one trial a round; where rounding ends the
    search, steepest descent anew. With bounds, parameters at a bound that the gradient pushes
    against are held, and points are projected. (optax's wrapper `lookahead` is another method.)

    One slot of the second round repeats x0. Where it differs by more than a tenth of the gradient,
    or differs at all and nothing lower is found for three rounds, N gradients are averaged at the
    iterate and a parameter-free rule takes the steps; so it does where no values are told.

    Parameters
    ----------
    history : int or None, default None
        Rows kept; None: max(96, 6 N). Memory is 2 (history + N + 1) d numbers in the dtype of x0.

    Notes
    -----
    Where theory forbids more: on a quadratic N gradients a round add starting vectors to the Krylov
    space, and no degree. With a rotated, evenly spread spectrum (d = 400) L-BFGS-B's evaluations
    over rounds are 1.2 at N = 4 and N = 8, and 1.9 at N = 16. Where many independent small
    problems are one (extended Rosenbrock, extended Powell), a path is worth no more than an L-BFGS
    step: 0.8 to 1.1. What was tried and did not help stands in bench/RESULTS.md.

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427 (any first-order optimizer); Liu,
    Nocedal, On the limited memory BFGS method, Math. Prog. 45, 1989.
    """

    name: ClassVar[str] = "lookahead"
    uses_history: ClassVar[bool] = False
    reuses_observations: ClassVar[bool] = True
    any_optimizer: ClassVar[bool] = False
    history: int | None = None

    def __post_init__(self) -> None:
        if self.history is not None:
            integer("history", self.history, low=2)

    def _most_rows(self, view: EngineView) -> int:
        return self.history or max(ROWS, ROWS_PER_SLOT * view.parallelism)

    def init(self, view: EngineView) -> LookaheadState:
        backend, d = view.backend, len(view.x)
        shape = (self._most_rows(view) + view.parallelism + 1, d)
        try:
            rows = Rows.empty(backend, shape, view.x.dtype)
        except (MemoryError, ValueError, OverflowError) as error:
            # ValueError: NumPy's, for sizes beyond any address
            size = Decimal(2 * shape[0] * d * view.x.dtype.itemsize) / 10**9
            raise ArgumentError(
                f"{short_repr(shape[0])} rows of {d} parameters take {size:.3g} GB, more than there"
                " is; pass a smaller parallelism, or strategy=Lookahead(history=...)"
            ) from error
        return LookaheadState(rows, noisy_rule().init(view.x[:0], backend=backend))

    # -- plan -------------------------------------------------------------------------------------

    def plan(self, view: EngineView, strategy_state: LookaheadState) -> Proposal:
        s, N = strategy_state, view.parallelism
        if s.averaging:
            return Proposal([view.x] * N)
        if not len(s.rows.order):
            return Proposal([view.x])
        if N == 1:
            return self._plan_line(view, s)
        rows = s.rows
        if s.unsuccessful > 3 and s.unsuccessful % 4 == 0:  # the memory misleads: steepest descent
            rows = rows.only_last()
        free = free_parameters(view, rows)
        second = len(s.rows.order) == 1
        classes: np.ndarray | None = None
        if second:
            x, g = view.backend.to_host(rows.x), view.backend.to_host(rows.g)
            classes = parameter_classes(x, g, N)
        distinct = 0 if classes is None else int(classes.max()) + 1
        repeats = second and s.noise_status == UNKNOWN
        n = len(rows.order)
        with blas_single_threaded((n * min(n, len(view.x))) ** 2):  # the matrix of the potential
            known = Coordinates(rows, view.backend, free)
            plan = propose(known, s, N, repeats=repeats, distinct=distinct)
            if plan is None:
                return Proposal([view.x])
            points = known.lift(np.array([c.z for c in plan.candidates]))
        random = np.random.default_rng(RANDOM_SEED)
        for i, c in enumerate(plan.candidates):
            if c.offset:
                assert classes is not None
                v = random.standard_normal(distinct)[classes]
                if free is not None:
                    v[~free] = 0.0
                v *= c.offset / np.linalg.norm(v)
                points[i] = points[i] + view.backend.copy_in(v, view.x.dtype)
        points = [view.project(point) for point in points]
        if plan.repeats:
            points = [view.x, *points]
        if rows is not s.rows:
            plan = replace(plan, gram=s.rows.gram)
        return Proposal(points, predicted_steps=max(plan.ends.values(), default=1), cache=plan)

    def _plan_line(self, view: EngineView, s: LookaheadState) -> Proposal:
        search, rows = s.search, s.rows
        if search.direction is None:
            found = first_trial(view, rows)
            if found is None:
                return Proposal([view.x])
            start, rows = found
            search = replace(start, low=np.array([0.0, s.value, start.slope]))
        point = view.project(trial := unprojected(view, rows.x, search))
        if bool((trial == rows.x).all()):
            return Proposal([view.x])
        return Proposal([point], cache=(search, rows.gram))

    # -- advance ----------------------------------------------------------------------------------

    def advance(
        self,
        view: EngineView,
        strategy_state: LookaheadState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        s = strategy_state
        if s.averaging:
            return averaged_step(view, s, observations)
        if not len(s.rows.order):
            return self._begin(view, s, observations)
        if proposal.cache is None:
            if view.parallelism > 1 or len(s.rows.order) == 1:
                return self._stay(view, s, stalled=True)
            # Rounding ended the search: badly scaled pairs are forgotten for steepest descent.
            return self._stay(view, replace(s, rows=s.rows.only_last(), search=WolfeSearch()))
        if view.parallelism == 1:
            return self._advance_line(view, s, proposal, observations[0])
        return self._advance(view, s, proposal, observations)

    def _begin(
        self, view: EngineView, s: LookaheadState, observations: Sequence[Observation | None]
    ) -> Update:
        first = observations[0]
        assert first is not None
        if math.isnan(first.value):  # no values: gradients are all there is
            return averaged_step(view, start_averaging(view, s), observations)
        s.rows.X[0], s.rows.G[0] = view.x, first.gradient
        rows = replace(s.rows, order=np.zeros(1, np.int64), mark=np.ones(1, bool))
        size = math.sqrt(view.backend.dot(view.x, view.x))
        begun = replace(s, rows=rows, value=first.value, start=first.value, max_step=max(1.0, size))
        return Update(view.x, view.state, begun, 0, complete=False, observation=first)

    def _stay(self, view: EngineView, s: LookaheadState, *, stalled: bool = False) -> Update:
        """Nothing lower was found: theta stays where it is."""
        g = s.rows.g
        known = Observation(g, view.backend.dot(g, g), s.value)
        noisy = s.noise_status == NOISY and (stalled or s.unsuccessful >= 3)
        if noisy:
            return Update(view.x, view.state, start_averaging(view, s), 0, note="noisy values")
        return Update(
            view.x,
            view.state,
            s,
            0,
            observation=known,
            stalled=stalled or s.unsuccessful > MOST_FAILURES,
        )

    def _advance(
        self,
        view: EngineView,
        s: LookaheadState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        plan, N = proposal.cache, view.parallelism
        s = replace(s, rows=replace(s.rows, gram=plan.gram), scales=plan.scales)
        if plan.repeats:
            again, observations = observations[0], observations[1:]
            if again is not None:
                g = s.rows.g
                exact = repeats_exactly(view.backend, g, s.value, again)
                s = replace(s, noise_status=EXACT if exact else NOISY)
                if not exact and strong_noise(view.backend, g, again):
                    return averaged_step(view, start_averaging(view, s), [again])
        points = proposal.points[len(proposal.points) - len(plan.candidates) :]
        found = [
            (point, one, candidate)
            for point, one, candidate in zip(points, observations, plan.candidates, strict=False)
            if one is not None
        ]
        s = learn(s, plan, found, N)
        limit = 1e6 * (abs(s.value) + abs(s.start)) + 1e10
        found = [each for each in found if abs(each[1].value) < limit]
        lowest = lowest_of(view, s, found)
        if lowest is None or not lowest[1].value < s.value:
            rows = s.rows.extended(
                [point for point, _, _ in found],
                [one.gradient for _, one, _ in found],
                [False] * len(found),
                lowest=False,
                most=self._most_rows(view),
            )
            unsuccessful = s.unsuccessful + 1
            max_step = 0.25 ** min(unsuccessful + 1, 3) * min(plan.unit, s.max_step)
            stay = replace(
                s,
                rows=rows,
                scales=np.full(2, -1),
                unsuccessful=unsuccessful,
                max_step=max_step,
                windows=np.zeros_like(s.windows),
            )
            return self._stay(view, stay)
        x, best, winner = lowest

        def place(each: Evaluated) -> tuple[bool, bool, str, int]:
            """Sort key: the winner last, before it the points of its path up to it."""
            name, step = each[2].proposer, each[2].step
            before = name == winner.proposer and name in plan.ends and step < winner.step
            return each is lowest, before, name, step

        order = sorted(found, key=place)
        rows = s.rows.extended(
            [point for point, _, _ in order],
            [one.gradient for _, one, _ in order],
            [any(place(each)[:2]) for each in order],
            lowest=True,
            most=self._most_rows(view),
        )
        moved = replace(
            s, rows=rows, value=best.value, unsuccessful=0, max_step=GROWTH * winner.size
        )
        steps = winner.step if winner.proposer in plan.ends else 1
        return Update(x, view.state, moved, steps, note=winner.proposer, observation=best)

    def _advance_line(
        self, view: EngineView, s: LookaheadState, proposal: Proposal, one: Observation | None
    ) -> Update:
        (search, gram), x = proposal.cache, proposal.points[0]
        s = replace(s, rows=replace(s.rows, gram=gram))
        value, slope, gradient, fall = math.inf, math.nan, None, 0.0
        if one is not None:
            value, gradient = one.value, one.gradient
            z, start, g, g_start, trial = (
                view.backend.to_host(v).astype(np.float64)
                for v in (x, s.rows.x, gradient, s.rows.g, unprojected(view, s.rows.x, search))
            )
            fall = float((z - start) @ g_start)
            slope = float(np.where(trial == z, g, 0.0) @ search.direction)
        bounded = free_parameters(view, s.rows) is not None
        search, verdict = search.tell(value, x, gradient, slope, s.value, fall, bounded)
        if verdict == "go on":
            return self._stay(view, replace(s, search=search))
        if verdict == "failed":  # the direction leads nowhere: forget all but x
            unsuccessful = s.unsuccessful + 1
            failed = replace(
                s, rows=s.rows.only_last(), search=WolfeSearch(), unsuccessful=unsuccessful
            )
            return self._stay(view, failed, stalled=unsuccessful > 3)
        x, g = search.kept_x, search.kept_g
        assert x is not None
        assert g is not None
        rows = s.rows.extended([x], [g], [True], lowest=True, most=self._most_rows(view))
        moved = replace(s, rows=rows, value=search.kept_value, search=WolfeSearch(), unsuccessful=0)
        known = Observation(g, view.backend.dot(g, g), search.kept_value)
        return Update(x, view.state, moved, observation=known)


def lowest_of(view: EngineView, s: LookaheadState, found: list[Evaluated]) -> Evaluated | None:
    """The evaluation to go on from: the lowest one.

    Where the way there has negative secant curvature, (x' - x)'(g' - g) < 0, it is taken only if
    nothing else is lower than x: no leap off a cliff while the ground falls elsewhere.
    """
    lower = [each for each in found if each[1].value < s.value]
    dot, x, g = view.backend.dot, s.rows.x, s.rows.g
    curved = [each for each in lower if dot(each[0] - x, each[1].gradient - g) >= 0]
    return min(curved or lower or found, key=lambda each: each[1].value, default=None)


def unprojected(view: EngineView, x: Array, search: WolfeSearch) -> Array:
    """x + t p in the dtype of x."""
    assert search.direction is not None
    wide = view.backend.to_host(x).astype(np.float64) + search.t * search.direction
    return view.backend.copy_in(wide, x.dtype)


def start_averaging(view: EngineView, s: LookaheadState) -> LookaheadState:
    """The state in which gradients are averaged, from the iterate on."""
    rule_state = noisy_rule().init(view.x, backend=view.backend)
    return replace(s, averaging=True, noise_status=NOISY, rule_state=rule_state)


def averaged_step(
    view: EngineView, s: LookaheadState, observations: Sequence[Observation | None]
) -> Update:
    """One step of the parameter-free rule with the mean gradient."""
    gradients = [one.gradient for one in observations if one is not None]
    mean = gradients[0] if len(gradients) == 1 else view.backend.average(gradients)
    x, rule_state = noisy_rule().step(view.x, mean, s.rule_state, backend=view.backend)
    moved = replace(s, rule_state=rule_state)
    return Update(view.project(x), view.state, moved, note="averaged gradients")
