"""Asynchronous SGD on a Dask cluster: workers that push when they are ready, one of which is killed
on the way.

Needs the extra `dask`. Run: python examples/async_sgd_dask.py The cluster here is a scheduler and
three worker processes of this machine; with `Client("tcp://scheduler:8786")` the same lines run on
many.
"""

import logging
import os
import signal

import numpy as np
from distributed import Client, LocalCluster

import optex_core as ox

ROWS, PARAMETERS = 20_000, 50


class Logistic:
    """Logistic regression on mini-batches of 200 rows; every process draws the same data once."""

    _data = None

    @property
    def data(self):
        if Logistic._data is None:
            rng = np.random.default_rng(0)
            rows = rng.standard_normal((ROWS, PARAMETERS)) / np.sqrt(PARAMETERS) * 3
            Logistic._data = (
                rows,
                np.sign(rows @ rng.standard_normal(PARAMETERS) + 0.5 * rng.standard_normal(ROWS)),
            )
        return Logistic._data

    def __call__(self, x, *, seed=None):
        rows, labels = self.data
        pick = slice(None) if seed is None else np.random.default_rng(seed).integers(ROWS, size=200)
        a, y = rows[pick], labels[pick]
        z = -y * (a @ x)
        return np.logaddexp(0, z).mean(), -(y / (1 + np.exp(-z))) @ a / len(y)


def main():
    fun, x0 = Logistic(), np.zeros(PARAMETERS)
    # it writes a traceback for the worker that is killed here
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=":0", worker_dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        processes = sorted(client.run(os.getpid).values())

        def kill_one(intermediate_result):
            if intermediate_result.nit == 40:
                os.kill(processes[0], signal.SIGKILL)
                print(
                    f"after {intermediate_result.nit} updates: killed the Dask worker "
                    f"{processes[0]}"
                )

        res = ox.async_sgd.minimize(
            fun,
            x0,
            rate=0.2,
            inner_steps=20,
            parallelism=3,
            workers=client,
            maxiter=150,
            callback=kill_one,
            rng=0,
        )
        living = sorted(client.run(os.getpid).values())
    serial = ox.async_sgd.minimize(
        fun, x0, rate=0.2, inner_steps=20, parallelism=1, maxiter=150, rng=0
    )
    before, after, alone = fun(x0)[0], fun(res.x)[0], fun(serial.x)[0]
    print(
        f"{res.nit} updates from {res.njev} gradients; loss {before:.4f} -> "
        f"{after:.4f} (serial: {alone:.4f})"
    )
    print(
        f"delays: mean {res.delays.mean():.2f}, largest {res.delays.max()}; bursts "
        f"lost: {len(res.lost)}; workers {processes} -> {living}"
    )
    assert after < 1.02 * alone
    return res


if __name__ == "__main__":
    main()
