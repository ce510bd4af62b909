"""Learn to balance a pole: worker processes with games of their own push to one network; each
shares its copy between two cores.

Run: python examples/actor_critic.py [updates] [workers] [picture]
"""

import sys

import numpy as np

from optex_core.async_sgd.models import ActorCritic, train_policy


def main(updates=6000, workers=2, picture=None):
    settings = ActorCritic(updates=updates)
    lengths = []

    def watch(master, push, _):
        lengths.extend([push.report["length"]] * int(push.report["episodes"]))
        if master.version % 50 == 0 and lengths:
            print(
                f"\rupdate {4 * master.version:5d}: the last 100 poles stood for "
                f"{np.mean(lengths[-100:]):3.0f} steps",
                end="",
                flush=True,
            )

    found = train_policy(
        settings,
        parallelism=workers,
        cores=2,
        inner_steps=4,
        workers=workers,
        max_delay=4 * workers,
        on_late="wait",
        callback=watch,
    )
    print(
        f"\n{updates} updates in {found.report.seconds:.0f} s; delay "
        f"{found.report.mean_delay:.1f} on average, at most {found.report.max_delay}"
    )
    before = settings.score(settings.start()).mean()
    print(
        f"100 fresh poles stand for {found.score():.0f} steps on average, of 500 "
        f"(solved: 475); before training {before:.0f}"
    )
    if picture is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(found.curve[:, 0], found.curve[:, 2], ".", markersize=2)
        axes.set(
            xlabel="updates of all workers",
            ylabel="steps until the pole fell",
            title=f"{workers} worker processes with two cores each",
        )
        figure.savefig(picture)
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    else:
        main(
            *(int(a) for a in arguments[:2]),
            **({"picture": arguments[2]} if len(arguments) > 2 else {}),
        )
