"""Learn to play: worker processes with games of their own push to one network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from actor_critic import ActorCritic, train_policy
from optex_core.async_sgd import LoopReport


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example; see ``python -m actor_critic --help``."""
    parser = argparse.ArgumentParser(prog="python -m actor_critic", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 steps by two workers; seconds")
    parser.add_argument("--env", default="CartPole-v1", help="of gymnasium (default CartPole-v1)")
    parser.add_argument("--steps", type=int, help="in all (default 6000, with --quick 200)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2; 1: serial)")
    parser.add_argument("--cores", type=int, default=2, help="threads in each (default 2)")
    parser.add_argument("--inner-steps", type=int, default=4, help="steps to a push (default 4)")
    args = parser.parse_args(argv)
    settings = ActorCritic(env=args.env, steps=args.steps or (200 if args.quick else 6000))
    workers = args.workers
    returns: list[float] = []

    def watch(intermediate_result: LoopReport) -> None:
        report, version = intermediate_result.push.report, intermediate_result.master.version
        returns.extend([report["return"]] * int(report["episodes"]))
        if version % 50 == 0 and returns:
            mean = np.mean(returns[-100:])
            print(f"\rpush {version}: return {mean:.0f}, mean of 100", end="", flush=True)

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
    print(f"\n{settings.steps} steps in {report.seconds:.0f} s; ", end="")
    print(f"staleness {report.mean_delay:.1f} on average, at most {report.max_delay}")
    print(f"mean return of 100 new episodes: {found.score():.0f}, with drawn actions ", end="")
    print(f"{found.score(greedy=False):.0f}; before training {before:.0f}")


if __name__ == "__main__":
    main()
