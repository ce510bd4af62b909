"""Learn to balance a pole: worker processes with games of their own push to one network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from actor_critic import ActorCritic, train_policy
from optex_core.async_sgd import LoopReport


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example; see ``python -m actor_critic --help``."""
    parser = argparse.ArgumentParser(prog="python -m actor_critic", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 updates by two workers; seconds")
    parser.add_argument("--updates", type=int, help="in all (default 6000, with --quick 200)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2; 1: serial)")
    parser.add_argument("--cores", type=int, default=2, help="threads in each (default 2)")
    parser.add_argument("--inner-steps", type=int, default=4, help="updates to a push (default 4)")
    args = parser.parse_args(argv)
    settings = ActorCritic(updates=args.updates or (200 if args.quick else 6000))
    workers = args.workers
    lengths: list[float] = []

    def watch(intermediate_result: LoopReport) -> None:
        report, version = intermediate_result.push.report, intermediate_result.master.version
        lengths.extend([report["length"]] * int(report["episodes"]))
        if version % 50 == 0 and lengths:
            mean = np.mean(lengths[-100:])
            print(f"\rpush {version}: {mean:.0f} steps, mean of 100", end="", flush=True)

    found = train_policy(
        settings,
        parallelism=workers,
        cores=args.cores,
        inner_steps=args.inner_steps,
        workers=workers if workers > 1 else None,
        max_delay=4 * workers,
        on_late="wait",
        callback=watch,
    )
    report, before = found.report, settings.score(settings.start(), 100).mean()
    print(f"\n{settings.updates} updates in {report.seconds:.0f} s; ", end="")
    print(f"staleness {report.mean_delay:.1f} on average, at most {report.max_delay}")
    print(f"100 new poles stand for {found.score():.0f} of 500 steps (solved: 475); ", end="")
    print(f"before training {before:.0f}")


if __name__ == "__main__":
    main()
