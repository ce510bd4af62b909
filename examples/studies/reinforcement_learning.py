"""Deep Q-networks on three games of classic control: returns against rounds of gradients.

Run: python examples/studies/reinforcement_learning.py [--quick|--full]
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _classic_control import Acrobot, CartPole, Environment, Games, MountainCar
from _comparison import ALONE, FASTER, IDEAL, LBFGSB, METHODS, RATELESS, Run, Task, compare
from _q_network import QNetwork, evaluate
from _report import median, spread
from _study import Findings, Study, Table, run_study

import optex_core as ox
from optex_core.bench._result_store import Store
from optex_core.engine.plots import COLOURS, DASHES

TEXT = """Deep Q-learning with a tanh network of two layers of 32 units in NumPy: in every round 16
games take one step each, then N = 4 gradients of the squared temporal-difference error are taken on
batches of 64 from the replay memory; the target network follows every 50 rounds. The games are our
own; a test compares every step with gymnasium's. Adam; every method at the best of five rates on
CartPole. The return is that of 20 new games, played greedily but for 5 % of the actions, at 12
moments. The function changes with every round, so no model of it and no line search has exact data;
960 rounds are few, too few for anybody on Acrobot and MountainCar (rates of CartPole). CartPole
also with real workers, two processes: a gradient takes a fraction of a millisecond."""
GAMES: dict[str, type[Environment]] = {
    "CartPole": CartPole,
    "Acrobot": Acrobot,
    "MountainCar": MountainCar,
}
N, PARALLEL_GAMES, BATCH, MEMORY, FOLLOW, MOMENTS = 4, 16, 64, 20_000, 50, 12
DISCOUNT = 0.99
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
#: Share of random actions in games that are scored (Mnih et al., Nature 518, 2015).
EXPLORED = 0.05
#: mode -> (rounds, seeds, games)
EXTENTS: dict[str, tuple[int, int, Sequence[str]]] = {
    "quick": (60, 1, ("CartPole",)),
    "default": (960, 5, tuple(GAMES)),
    "full": (6000, 10, tuple(GAMES)),
}


class Replay:
    """The newest MEMORY transitions."""

    def __init__(self, inputs: int) -> None:
        self.seen, self.after = np.empty((MEMORY, inputs)), np.empty((MEMORY, inputs))
        self.actions, self.over = np.empty(MEMORY, int), np.empty(MEMORY, bool)
        self.rewards, self.count = np.empty(MEMORY), 0

    def add(self, *rows: np.ndarray) -> None:
        """Rows of (seen, actions, rewards, after, over)."""
        at = (self.count + np.arange(len(rows[0]))) % MEMORY
        columns = self.seen, self.actions, self.rewards, self.after, self.over
        for column, values in zip(columns, rows, strict=True):
            column[at] = values
        self.count += len(at)

    def batch(self, network: QNetwork, target: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """(seen, actions, y) of the batch of this seed, y = (1 - discount) r + discount max
        Q_target(s'): values are means of rewards, of the order of one.
        """
        rows = np.random.default_rng(seed).integers(min(self.count, MEMORY), size=BATCH)
        best = network.values(target, self.after[rows]).max(1)
        goals = (1 - DISCOUNT) * self.rewards[rows] + DISCOUNT * np.where(
            self.over[rows], 0.0, best
        )
        return self.seen[rows], self.actions[rows], goals


def score(game: Environment, network: QNetwork, theta: np.ndarray, seed: int) -> float:
    """The mean sum of rewards of 20 new games."""
    rng = np.random.default_rng([seed, 1])
    states, total = game.start(20, rng), np.zeros(20)
    playing = np.ones(20, bool)
    for _ in range(game.limit):
        actions = network.values(theta, game.observe(states)).argmax(1)
        random = rng.random(20) < EXPLORED
        actions[random] = rng.integers(network.actions, size=int(random.sum()))
        states, rewards, over = game.step(states, actions)
        total += rewards * playing
        playing &= ~over
        if not playing.any():
            break
    return float(total.mean())


def train(
    name: str, rounds: int, method: str, rate: float | None, seed: int, workers: int | None
) -> Run:
    """One run; its values are minus the returns, so that less is better."""
    game = GAMES[name]()
    network = QNetwork(game.inputs, game.actions)
    given: dict[str, Any] = {} if rate is None else {"optimizer": ox.Adam(rate)}
    if method != RATELESS:
        given["strategy"] = ALONE if method == FASTER else method
    engine = ox.OptEx(
        network.start(seed), parallelism=N, rng=seed, maxiter=rounds, gtol=0.0, **given
    )
    games, replay = Games(game, PARALLEL_GAMES, seed), Replay(game.inputs)
    rng, target = np.random.default_rng([seed, 2]), engine.state.x.copy()
    values, spent, clock = [-score(game, network, target, seed)], [0], [0.0]
    seconds, gradients = 0.0, 0
    with ExitStack() as stack:
        each: Any = map
        if workers is not None:
            from loky import ProcessPoolExecutor

            pool = stack.enter_context(ProcessPoolExecutor(workers))
            list(pool.map(abs, range(2 * workers)))  # started before the clock
            each = pool.map
        for block in range(MOMENTS):
            begin = time.perf_counter()
            for t in range(block * rounds // MOMENTS, (block + 1) * rounds // MOMENTS):
                play(games, network, replay, engine.state.x, max(0.05, 1 - 3 * t / rounds), rng)
                if t % FOLLOW == 0:
                    target = engine.state.x.copy()
                gradients += one_round(engine, network, replay, target, each)
            seconds += time.perf_counter() - begin
            values.append(-score(game, network, engine.state.x, seed))
            spent.append(gradients)
            clock.append(seconds)
    return Run(values, spent, clock)


def play(
    games: Games, network: QNetwork, replay: Replay, theta: np.ndarray, chance: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """One step of every game: at random with this chance, else greedy."""
    seen = games.environment.observe(games.states)
    actions = network.values(theta, seen).argmax(1)
    random = rng.random(len(actions)) < chance
    actions[random] = rng.integers(network.actions, size=int(random.sum()))
    after, rewards, over, _ = games.step(actions)
    replay.add(seen, actions, rewards, games.environment.observe(after), over)


def one_round(
    engine: ox.OptEx, network: QNetwork, replay: Replay, target: np.ndarray, each: Any
) -> int:
    """Ask and tell until the iterate has moved; the number of gradients."""
    count, now = 0, engine.state.nit
    while engine.state.nit == now and not engine.stop():
        candidates = engine.ask()
        batches = [replay.batch(network, target, c.seed) for c in candidates]
        found = each(partial(evaluate, network), [c.x for c in candidates], batches)
        for candidate, (value, gradient) in zip(candidates, list(found), strict=True):
            engine.tell(candidate.id, gradient=gradient, value=value)
        count += len(candidates)
    return count


def measure(mode: str, store: Store) -> Findings:
    rounds, seeds, names = EXTENTS[mode]
    methods = tuple(m for m in METHODS if m != LBFGSB)
    tasks = [
        Task(
            name, name, partial(train, name, rounds), RATES[2:3] if mode == "quick" else RATES,
            MOMENTS, N, noisy=True, methods=methods, seeds=seeds,
            rates_of="" if name == names[0] else names[0],
            clock=tuple(m for m in methods if m != IDEAL) if name == names[0] else (),
        )
        for name in names
    ]  # fmt: skip
    found = compare(tasks, store)
    return Findings(
        [table(found, rounds // MOMENTS)],
        found[:1],  # rounds to a return are counted where rates are tuned
        losses=losses(found[1:], rounds),
        figures={"rounds": rounds, "games": found},
    )


def table(found: Sequence[dict[str, Any]], scale: int) -> Table:
    """Returns; of the first game also rounds to that of the optimizer alone, gradients, seconds."""
    rows = []
    for method, own in found[0]["methods"].items():
        hits = [None if h is None else scale * h for h in own["rounds"]]
        gradients = median(own["gradients"])
        rows.append(
            [
                method,
                "-" if own["rate"] is None else f"{own['rate']:.2g}{' !' if own['edge'] else ''}",
                returns(own),
                spread(hits),
                f"{gradients:.0f}" if math.isfinite(gradients) else "-",
                spread(own["seconds"]) if "seconds" in own else "-",
                *(returns(one["methods"][method]) for one in found[1:]),
            ]
        )
    name, seeds = found[0]["title"], found[0]["seeds"]
    caption = (
        f"Return at the end (mean +- standard deviation over {seeds} seeds, each the mean of the "
        f"last three moments); on {name} also rounds, gradients and seconds on real workers until "
        "the return that `sequential` has at the end, median (least to most). !: at an end of the "
        "grid of rates."
    )
    head = [
        "",
        "rate",
        name,
        "rounds",
        "gradients",
        "seconds",
        *(one["title"] for one in found[1:]),
    ]
    return Table(caption, head, rows)


def returns(own: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds."""
    final = -np.array(own["final"])
    return f"{final.mean():.0f}" + (f" +- {final.std(ddof=1):.0f}" if len(final) > 1 else "")


def losses(found: Sequence[dict[str, Any]], rounds: int) -> list[tuple[str, str, str, str]]:
    """The games in which no method is better than the start by a tenth."""
    rows = []
    for one in found:
        best = min(one["methods"], key=lambda m: float(np.mean(one["methods"][m]["final"])))
        final = float(np.mean(one["methods"][best]["final"]))
        start = one["methods"][ALONE]["curve"][0][1]
        if final > 0.9 * start:
            rows.append(
                (f"deep Q-learning on {one['title']}", "every method",
                 f"return {-final:.0f} at best after {rounds} rounds, {-start:.0f} at the start",
                 "more rounds, or another method: N gradients do not explore")
            )  # fmt: skip
    return rows


def draw(findings: Findings, figure: Any) -> None:
    found, scale = findings.figures["games"], findings.figures["rounds"] // MOMENTS
    figure.set_size_inches(4.2 * len(found), 3.6)
    for i, one in enumerate(found):
        axes = figure.add_subplot(1, len(found), i + 1)
        for j, (method, own) in enumerate(one["methods"].items()):
            k, value = np.array(own["curve"]).T
            axes.plot(
                scale * k, -value, label=method, color=COLOURS[j % len(COLOURS)],
                linestyle="-" if method == "auto" else DASHES[j % len(DASHES)],
            )  # fmt: skip
        axes.set_title(f"{one['title']}, N = {one['N']}", fontsize="medium")
        axes.set_xlabel("rounds")
        axes.grid(visible=True, alpha=0.25)
        if not i:
            axes.set_ylabel("return")
            axes.legend(fontsize="x-small")


STUDY = Study(
    "reinforcement_learning", "Reinforcement learning", TEXT, Path(__file__), measure, draw
)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
