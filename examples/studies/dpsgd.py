"""Asynchronous SGD on two levels (DPSGD): throughput, staleness, and loss against the serial run.

Run: python examples/studies/dpsgd.py [--quick|--full]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _comparison import TUNING_SEED
from _study import Findings, Study, Table, run_study

import optex_core as ox
from optex_core.async_sgd.hogwild import full_value_and_gradient
from optex_core.bench._result_store import Store
from optex_core.bench._tables import short
from optex_core.bench.async_sgd.measurements import losses as bench_losses
from optex_core.bench.async_sgd.measurements import sleeping
from optex_core.bench.async_sgd.problems import sparse_logistic
from optex_core.engine.plots import COLOURS

#: The applications are packages in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TEXT = """Throughput: gradients that sleep for 0.1 s on worker processes. Loss: sparse logistic
regression after the same number of gradients, bursts of 100 steps, at one rate for every number of
workers, against the serial run; tuned: each way at the best of six rates on a seed that is not
reported, data_parallel with the mean of N gradients in a step. Topics: held-out perplexity of 20
topics in the docstrings of NumPy and SciPy (examples/topic_model), less is better; synchronous
workers start from the same version, and their N maps are applied together. Actor-critic on CartPole
(examples/actor_critic): mean length of 100 new games with greedy play, 500 at most. Here the rate
is the same for every number of workers; two worker processes on two cores where gradients compute,
their start included in the seconds. Predicted steps have no place in pushes that nobody waits for:
the other strategies are no controls here."""
#: mode -> settings of the four parts
EXTENTS: dict[str, dict[str, Any]] = {
    "quick": {"numbers": (2,), "pushes": 8, "loss": (1, 4), "gradients": 5_000, "topics": 8,
              "steps": 60, "seeds": 1, "tuned": (4,)},
    "default": {"numbers": (2, 4, 8), "pushes": 20, "loss": (1, 4, 16), "gradients": 100_000,
                "topics": 600, "steps": 3000, "seeds": 5, "tuned": (4, 16)},
    "full": {"numbers": (1, 2, 4, 8, 16), "pushes": 60, "loss": (1, 2, 4, 8, 16),
             "gradients": 400_000, "topics": 1000, "steps": 6000, "seeds": 10,
             "tuned": (2, 4, 8, 16)},
}  # fmt: skip
#: Tried for each way of the part "tuned", on TUNING_SEED.
RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SERIAL, AVERAGED, ASYNCHRONOUS = "serial", "data_parallel", "asynchronous"
#: Name -> arguments of `find_topics` and `train_policy`.
WAYS: dict[str, dict[str, Any]] = {
    "serial": {"parallelism": 1, "inner_steps": 1},
    "synchronous, 2 workers": {
        "parallelism": 2, "inner_steps": 4, "workers": 2, "synchronous": True,
    },
    "asynchronous, 2 workers": {
        "parallelism": 2, "inner_steps": 4, "workers": 2, "max_delay": 8, "on_late": "wait",
    },
    "asynchronous, 8 in turn": {"parallelism": 8, "inner_steps": 1},
}  # fmt: skip


@cache
def texts(quick: bool) -> Any:
    """Documents: of 4 known topics, or the docstrings of NumPy and SciPy."""
    from topic_model import docstring_corpus, synthetic_corpus

    return synthetic_corpus(300, words=120, topics=4)[0] if quick else docstring_corpus()


def topics(steps: int, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Held-out perplexity, seconds and staleness of one run."""
    from topic_model import LDA, find_topics, perplexity

    quick = steps == EXTENTS["quick"]["topics"]
    settings, corpus = LDA(topics=4 if quick else 20), texts(quick)
    training, held = corpus.split(len(corpus) // 10)
    found = find_topics(training, settings, steps=steps, rng=seed, **arguments)
    return {
        "score": float(perplexity(settings, found.x, *held.halves())),
        "seconds": float(found.report.seconds),
        "delay": float(found.report.mean_delay),
    }


def actor_critic(steps: int, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Length of new games, seconds and staleness of one run."""
    from actor_critic import ActorCritic, train_policy

    found = train_policy(ActorCritic(steps=steps), rng=seed, **arguments)
    return {
        "score": float(found.score(100)),
        "seconds": float(found.report.seconds),
        "delay": float(found.report.mean_delay),
    }


def final_loss(way: str, N: int, rate: float, gradients: int, seed: int) -> float:
    """The loss over all data after so many gradients of sparse logistic regression."""
    fun = sparse_logistic(20_000, 2_000, 20)
    if way != AVERAGED:
        found = ox.async_sgd.minimize(
            fun, np.zeros(2_000), rate=rate, inner_steps=100, parallelism=N, max_evals=gradients,
            rng=seed,
        )  # fmt: skip
        return float(found.fun)
    columns, entries, labels = fun.data
    x, rng = np.zeros(2_000), np.random.default_rng(seed)
    taken = 0
    while taken < gradients:
        order = rng.permutation(fun.n)[: gradients - taken]
        for rows in np.split(order, range(N, len(order), N)):
            C, E, y = columns[rows], entries[rows], labels[rows]
            slope = -y / (1.0 + np.exp(y * (E * x[C]).sum(1)))
            np.subtract.at(x, C, rate / len(rows) * slope[:, None] * E)
        taken += len(order)
    return float(full_value_and_gradient(fun, x)[0])


def tuned_losses(s: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    """Every way at the best of RATES: rate, and the losses of the seeds."""

    def loss(way: str, N: int, rate: float, seed: int) -> float:
        def run() -> dict[str, Any]:
            with np.errstate(over="ignore"):  # rates that are too high
                return {"loss": final_loss(way, N, rate, s["gradients"], seed)}

        found = store.compute(f"tuned/{way}/{N}/{rate}/{seed}", run)["loss"]
        return np.inf if found is None else float(found)

    rows = []
    for way, N in [(SERIAL, 1), *((w, N) for N in s["tuned"] for w in (AVERAGED, ASYNCHRONOUS))]:
        rate = min(RATES, key=lambda rate: loss(way, N, rate, TUNING_SEED))
        losses = [loss(way, N, rate, seed) for seed in range(s["seeds"])]
        rows.append(
            {"way": way, "N": N, "rate": rate, "edge": rate in (RATES[0], RATES[-1]),
             "losses": losses}
        )  # fmt: skip
    return rows


def measure(mode: str, store: Store) -> Findings:
    s = EXTENTS[mode]
    waiting = store.compute(
        "sleeping", lambda: {"rows": sleeping(s["numbers"], ("processes",), pushes=s["pushes"])}
    )["rows"]
    loss = store.compute(
        "loss", lambda: {"rows": bench_losses(s["loss"], (), gradients=s["gradients"])}
    )["rows"]
    tuned = tuned_losses(s, store)
    applications = {}
    for name, run, steps in (
        ("topics", topics, s["topics"]), ("actor-critic", actor_critic, s["steps"])
    ):  # fmt: skip
        applications[name] = {
            way: [
                store.compute(
                    f"{name}/{way}/{seed}",
                    lambda run=run, steps=steps, given=given, seed=seed: run(steps, given, seed),  # type: ignore[misc]
                )
                for seed in range(s["seeds"])
            ]
            for way, given in WAYS.items()
            if name == "topics" or not given.get("synchronous")
        }
    figures = {
        "waiting": waiting, "loss": loss, "tuned": tuned, "applications": applications, "extent": s
    }  # fmt: skip
    return Findings([table(figures)], losses=lost(figures), figures=figures)


def table(figures: Mapping[str, Any]) -> Table:
    """All four parts: result, staleness, seconds."""
    rows = []
    for row in figures["waiting"]:
        rows.append(
            [f"throughput, {row['N']} processes", f"{row['efficiency']:.2f} of N times one",
             f"{row['mean delay']:.1f} (at most {row['max delay']})", "-"]
        )  # fmt: skip
    for row in figures["loss"]:
        rows.append(
            [f"loss, rate {row['rate']:g}, {row['N']} in turn",
             f"{row['loss']:.4f} ({row['against serial']:+.2%})",
             f"{row['mean delay']:.1f} (at most {row['max delay']})", "-"]
        )  # fmt: skip
    for row in figures["tuned"]:
        losses = row["losses"]
        spread = f" +- {np.std(losses, ddof=1):.4f}" if len(losses) > 1 else ""
        rows.append(
            [f"loss, tuned, {row['way']}" + (f", N = {row['N']}" if row["N"] > 1 else ""),
             f"{np.mean(losses):.4f}{spread} @ {row['rate']:g}{' !' if row['edge'] else ''}",
             "-", "-"]
        )  # fmt: skip
    for name, ways in figures["applications"].items():
        for way, runs in ways.items():
            scores = [run["score"] for run in runs]
            spread = f" +- {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
            rows.append(
                [f"{name}, {way}", f"{np.mean(scores):.1f}{spread}",
                 short(float(np.mean([run["delay"] for run in runs]))),
                 short(float(np.median([run["seconds"] for run in runs])))]
            )  # fmt: skip
    extent = figures["extent"]
    caption = (
        f"{extent['gradients']:,} gradients (loss), {extent['topics']} steps (topics), "
        f"{extent['steps']:,} (actor-critic); {extent['seeds']} seeds, mean +- standard deviation; "
        f"@ rate, !: at an end of the grid."
    )
    return Table(caption, ["", "result", "staleness", "seconds"], rows)


def lost(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Where asynchronous workers end worse than the serial run by more than 1 %, or later."""
    rows = []
    worst = max(figures["loss"], key=lambda row: row["against serial"])
    count = [row for row in figures["loss"] if row["against serial"] > 0.01]
    if count:
        rows.append(
            ("asynchronous SGD, by loss", f"{len(count)} of {len(figures['loss'])}",
             f"rate {worst['rate']:g}, N = {worst['N']}: {worst['against serial']:+.1%} above the "
             f"serial run", "a rate below the cap that the result states, or `max_delay`")
        )  # fmt: skip
    for way in (AVERAGED, ASYNCHRONOUS):
        here = [row for row in figures["tuned"] if row["way"] == way]
        best = min(figures["tuned"], key=lambda row: float(np.mean(row["losses"])))
        worst = max(here, key=lambda row: float(np.mean(row["losses"])))
        least, most = float(np.mean(best["losses"])), float(np.mean(worst["losses"]))
        lost_on = [row for row in here if np.mean(row["losses"]) > 1.01 * least]
        if lost_on:
            rows.append(
                (f"SGD, {way}, by loss, tuned", f"{len(lost_on)} of {len(here)}",
                 f"N = {worst['N']}: {most:.4f} against {least:.4f}", f"{best['way']} SGD")
            )  # fmt: skip
    for name, ways in figures["applications"].items():
        scores = {way: [run["score"] for run in runs] for way, runs in ways.items()}
        sign = 1.0 if name == "topics" else -1.0  # of perplexity less is better
        way = max(scores, key=lambda w: sign * np.mean(scores[w]))
        serial, worst = np.mean(scores["serial"]), np.mean(scores[way])
        if sign * (worst - serial) > 0.01 * serial:
            rows.append(
                (f"asynchronous SGD, {name}", way.removeprefix("asynchronous, "),
                 f"{worst:.0f} against {serial:.0f} after the same steps",
                 "the serial run, or more steps")
            )  # fmt: skip
    slower = []
    for name, ways in figures["applications"].items():
        times = {way: float(np.median([r["seconds"] for r in runs])) for way, runs in ways.items()}
        two = times["asynchronous, 2 workers"]
        if two > times["serial"]:
            slower.append((two / times["serial"], f"{name}: {two:.1f} s against "
                           f"{times['serial']:.1f} s"))  # fmt: skip
    if slower:
        rows.append(
            ("asynchronous SGD, by seconds, two processes",
             f"{len(slower)} of {len(figures['applications'])}", max(slower)[1],
             "the serial run, or longer bursts (`inner_steps`)")
        )  # fmt: skip
    return rows


def draw(findings: Findings, figure: Any) -> None:
    figures = findings.figures
    figure.set_size_inches(11.0, 3.6)
    panels: Sequence[Any] = figure.subplots(1, 4)
    rows = figures["waiting"]
    panels[0].plot([r["N"] for r in rows], [r["efficiency"] for r in rows], marker="o")
    panels[0].set_ylim(0, 1.05)
    panels[0].set_title("throughput over N times one", fontsize="small")
    panels[0].set_xlabel("processes")
    for i, rate in enumerate(dict.fromkeys(r["rate"] for r in figures["loss"])):
        rows = [r for r in figures["loss"] if r["rate"] == rate]
        panels[1].plot([r["N"] for r in rows], [r["against serial"] for r in rows], marker="o",
                       label=f"rate {rate:g}", color=COLOURS[i])  # fmt: skip
    panels[1].legend(fontsize="x-small")
    panels[1].set_title("loss above the serial run", fontsize="small")
    panels[1].set_xlabel("workers, in turn")
    for axes, (name, ways) in zip(panels[2:], figures["applications"].items(), strict=True):
        for i, (way, runs) in enumerate(ways.items()):
            axes.plot([r["seconds"] for r in runs], [r["score"] for r in runs], "o", label=way,
                      color=COLOURS[i])  # fmt: skip
        axes.set_title("perplexity" if name == "topics" else "length of a game", fontsize="small")
        axes.set_xlabel("seconds")
        axes.legend(fontsize="xx-small")
    for axes in panels:
        axes.grid(visible=True, alpha=0.25)


STUDY = Study("dpsgd", "Asynchronous SGD", TEXT, Path(__file__), measure, draw)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
