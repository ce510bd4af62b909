"""An external program as the simulator: it reads a parameter file, prints its cost, and writes its
gradient; any executable will do.

Run: python examples/external_program.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import optex_core as ox


def simulate(deck, sensitivities):
    """The program: knows nothing of optex_core. A hanging chain of springs; its energy and the
    derivatives by the heights of its joints.
    """
    heights = np.array(
        [float(line) for line in Path(deck).read_text().splitlines() if not line.startswith("!")]
    )
    ends = np.concatenate(([0.0], heights, [0.0]))
    stretch = np.diff(ends)
    forces = stretch[:-1] - stretch[1:] + 0.1
    print(f"joints {len(heights)}")
    print(f"energy = {0.5 * stretch @ stretch + 0.1 * heights.sum():.17g} J")
    Path(sensitivities).write_text("# dE/dh\n" + "\n".join(f"{g:.17g}" for g in forces))


def main():
    with tempfile.TemporaryDirectory() as folder:
        program = ox.adapters.subprocess(
            [sys.executable, __file__, "{parameters}", "{gradient}"],
            parameters=("chain.inp", "! heights of {d} joints, evaluation {id}\n{x}\n"),
            value=("stdout.txt", "energy = {value} J"),  # what it prints
            gradient="sensitivities.txt",
            timeout=60,  # its whole process group is killed then
            keep="failed",  # the work directories of failed evaluations, for a look at them
            folder=folder,
        )
        # Threads are enough: the program is a process by itself. A failed run is tried again, three
        # times at most.
        res = ox.minimize(
            program,
            np.zeros(8),
            optimizer=ox.SGD(0.4),
            parallelism=4,
            workers="threads",
            on_error="retry",
            gtol=1e-2,
        )
    print(
        f"{res.message} {res.nit} rounds, {res.njev} runs of the program, {res.nsteps} "
        f"optimizer steps"
    )
    print("heights:", np.round(res.x, 3))
    assert res.success
    return res


if __name__ == "__main__":
    if len(sys.argv) == 3:
        simulate(*sys.argv[1:])
    else:
        main()
