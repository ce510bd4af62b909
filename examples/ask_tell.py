"""Your simulator owns the loop: ask for points, evaluate them wherever you like, tell the gradients
in any order; stop and go on later.

Run: python examples/ask_tell.py
"""

import tempfile
from pathlib import Path

import numpy as np

import optex_core as ox


def simulator(x):
    """Stands for an adjoint code, a batch queue, a laboratory."""
    h = np.logspace(0, -2, len(x))
    return 0.5 * (h * x) @ x, h * x


def main():
    rng = np.random.default_rng(0)
    engine = ox.OptEx(
        rng.standard_normal(50), optimizer=ox.SGD(1.0), parallelism=4, rng=0, gtol=1e-4
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "run.npz"
        while not engine.stop():
            candidates = engine.ask()
            for i in rng.permutation(len(candidates)):  # any order
                value, gradient = simulator(candidates[i].x)
                engine.tell(candidates[i].id, gradient=gradient, value=value)
            # save, forget everything, continue: the run has the same bits
            if engine.result().nit == 5:
                engine.save(saved)
                engine = ox.OptEx.load(saved)
    res = engine.result()
    print(
        f"{res.message} {res.nit} rounds, {res.njev} gradients, {res.nsteps} optimizer "
        f"steps, value {res.fun:.3g}"
    )
    assert res.success
    return res


if __name__ == "__main__":
    main()
