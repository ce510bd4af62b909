"""Actor-critic on cart-poles: serial, asynchronous and two-level, at the same number of updates.

Solved means a mean of at least 475 steps over 100 fresh episodes (the threshold of CartPole-v1,
whose equations and limit of 500 steps these are). Both policies are scored: the most probable
action, and actions drawn as in training; and the update is told at which the last 100 episodes of
training first had that mean. The folder of the run holds ``cells.jsonl``, ``actor_critic.json``,
``actor_critic.txt`` and ``actor_critic.png``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from optex_core.async_sgd.models.actor_critic import ActorCritic
from optex_core.async_sgd.models.cartpole import SOLVED
from optex_core.async_sgd.models.policy_training import train_policy
from optex_core.bench._studies import Method, chosen_rows, opened, parser, save, with_error
from optex_core.bench.efficiency.tables import columns

EXAMPLES = """examples:
  optex-core bench actor_critic              one seed, a minute on two cores
  optex-core bench actor_critic --full       five seeds; stop it and start it again as you like"""


def methods(workers: int) -> list[Method]:
    """Rows of the table."""
    half = max(2, workers // 2)
    return [Method("serial"), Method("asynchronous", workers), Method("two levels", half, 2, 4)]


def solved_at(curve: np.ndarray, episodes: int = 100) -> int | None:
    """The update at which the mean length of the last `episodes` (or a few more, in whole pushes)
    first reached 475; None if never.

    Parameters
    ----------
    curve : array, shape (n, 3)
        `Policy.curve`: updates, episodes that ended, their mean length.
    episodes : int, default 100
    """
    ended, total = np.cumsum(curve[:, 1]), np.cumsum(curve[:, 1] * curve[:, 2])
    for i in range(len(curve)):
        first = int(np.searchsorted(ended, ended[i] - episodes, side="right")) - 1
        if ended[i] < episodes:
            continue
        before = (ended[first], total[first]) if first >= 0 else (0.0, 0.0)
        if (total[i] - before[1]) / (ended[i] - before[0]) >= SOLVED:
            return int(curve[i, 0])
    return None


def run(settings: ActorCritic, method: Method, seed: int) -> dict[str, Any]:
    """One cell."""
    begin = time.perf_counter()
    found = train_policy(settings, rng=seed, **method.arguments)
    seconds = time.perf_counter() - begin
    delays = found.master.push_trace.delay
    # Lengths as they went, in fifty pieces.
    curve = [
        part.mean(axis=0)[[0, 2]].tolist() for part in np.array_split(found.curve, 50) if len(part)
    ]
    return {
        "greedy": found.score(rng=seed), "drawn": found.score(rng=seed, greedy=False), "solved_at": solved_at(found.curve),
        "mean_delay": float(delays.mean()), "max_delay": int(delays.max()), "lost": found.report.lost, "seconds": seconds, "curve": curve,
    }  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str
        The options.

    Returns
    -------
    int
        0.
    """
    found = parser("actor_critic", __doc__, EXAMPLES, "1, with --full 5")
    found.add_argument(
        "--updates",
        type=int,
        default=ActorCritic().updates,
        metavar="T",
        help="updates of each run (default 6000)",
    )
    args = found.parse_args(argv)
    settings = ActorCritic(updates=args.updates)
    folder, store = opened("actor_critic", args)
    seeds = range(args.seeds or (5 if args.full else 1))
    rows = chosen_rows(args.methods, [method.name for method in methods(args.workers)])
    cells = []
    for seed in seeds:
        for method in (m for m in methods(args.workers) if m.name in rows):
            key = f"{method.name}/{method.parallelism}/{settings.updates}/{seed}"
            if key not in store.cells:
                store.add(key, {"method": method.name, "seed": seed, **run(settings, method, seed)})
            cell = store.cells[key]
            cells.append(cell)
            print(
                f"{key}: {cell['greedy']:.1f} greedy, {cell['drawn']:.1f} drawn, "
                f"{cell['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    text = report(cells, settings, [m for m in methods(args.workers) if m.name in rows])
    print(text)
    document = {
        "settings": repr(settings),
        "workers": args.workers,
        "seeds": len(seeds),
        "cells": cells,
    }
    print(save(folder, "actor_critic", text, document, lambda figure: draw(figure, cells)))
    return 0


def report(cells: Sequence[dict[str, Any]], settings: ActorCritic, shown: Sequence[Method]) -> str:
    """The table."""
    head = [
        "",
        "workers x cores x updates",
        "greedy",
        "solved",
        "drawn",
        "solved",
        "475 in training at update",
        "delay mean, max",
        "seconds",
    ]
    rows = []
    for method in shown:
        mine = [cell for cell in cells if cell["method"] == method.name]
        row = [method.name, f"{method.parallelism} x {method.cores} x {method.inner_steps}"]
        for policy in ("greedy", "drawn"):
            lengths = [cell[policy] for cell in mine]
            row += [
                with_error(lengths),
                f"{sum(length >= SOLVED for length in lengths)} of {len(lengths)}",
            ]
        at = [cell["solved_at"] for cell in mine]
        row += [" ".join("never" if t is None else str(t) for t in at)]
        row += [
            f"{np.mean([c['mean_delay'] for c in mine]):.1f}, {max(c['max_delay'] for c in mine)}",
            f"{np.median([c['seconds'] for c in mine]):.1f}",
        ]
        rows.append(row)
    steps = settings.updates * settings.envs * settings.steps
    return (
        f"cart-poles: {settings.updates} updates, {steps} steps of the environment, in all "
        f"workers together\n\n{columns(head, rows)}\n"
    )


def draw(figure: Any, cells: Sequence[dict[str, Any]]) -> None:
    """Length of episodes in training against updates, one line for each run."""
    axes = figure.add_subplot()
    names = list(dict.fromkeys(cell["method"] for cell in cells))
    for cell in cells:
        i = names.index(cell["method"])
        axes.plot(
            *np.array(cell["curve"]).T,
            color=f"C{i}",
            alpha=0.7,
            label=cell["method"] if cell["seed"] == 0 else None,
        )
    axes.axhline(SOLVED, color="grey", linestyle=":")
    axes.set(
        xlabel="updates of all workers",
        ylabel="steps of an episode, drawn actions",
        title="cart-poles; dotted: 475, solved",
    )
    axes.legend()
