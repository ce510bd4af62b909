"""`warm_up`: after it a run compiles nothing."""

from __future__ import annotations

import pytest
from fresh_python import run_python

import optex_core as ox

SCRIPT = """
import numpy as np
from numba.core import event
import optex_core as ox
assert ox.warm_up(ox.SGD(0.1, momentum=0.9), dtype="float32") > 0
with event.install_recorder("numba:compile") as seen:
    for strategy in ("paper", "verified", "corrected"):
        res = ox.minimize(lambda x: (float(x @ x), 2 * x), np.ones(3_000, np.float32),
                          optimizer=ox.SGD(0.1, momentum=0.5), parallelism=3, strategy=strategy,
                          backend="numba", maxiter=6)
        assert res.nit == 6
    # Vectors so large that their results are stored past the caches.
    x0 = np.ones(3_000_000, np.float32)
    ox.minimize(lambda x: (1.0, x), x0, optimizer=ox.SGD(0.1, momentum=0.5), strategy="sequential",
                backend="numba", maxiter=1)
assert not seen.buffer, seen.buffer
"""


def test_a_run_after_it_compiles_nothing(tmp_path):
    pytest.importorskip("numba", reason="numba is not installed")
    run_python(SCRIPT, NUMBA_CACHE_DIR=str(tmp_path))


def test_typos_are_answered():
    with pytest.raises(ox.ArgumentError, match="did you mean 'numba'"):
        ox.warm_up(backend="nunba")
    with pytest.raises(ox.ArgumentError, match="did you mean 'adam'"):
        ox.warm_up("adma", backend="numpy")
