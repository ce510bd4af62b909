"""More machines than one: Dask runs the gradients. Without an argument on a cluster of processes
made here, else on the scheduler at that address.

Run: python examples/dask_cluster.py [tcp://10.0.0.5:8786]
"""

import os
import sys
import time

import numpy as np

import optex_core as ox


def simulator(x):
    """Runs on the cluster; anything it uses from this file travels with it."""
    time.sleep(0.1)
    h = np.logspace(0, -1, len(x))
    return 0.5 * (h * x) @ x, h * x


def run(cluster):
    """`cluster` may be an address, a cluster object, or a client."""
    begin = time.perf_counter()
    with ox.executors.dask(cluster) as pool:
        res = ox.minimize(
            simulator,
            np.ones(50),
            optimizer=ox.SGD(1.0),
            parallelism=4,
            workers=pool,
            gtol=1e-4,
            timeout=60,
            on_error="retry",
        )
    seconds = time.perf_counter() - begin
    print(
        f"{res.message} {res.nit} rounds, {res.njev} gradients of 0.1 s in "
        f"{seconds:.1f} s, {len(res.failures)} failures"
    )
    assert res.success
    return res


def main():
    if {"-h", "--help"} & set(sys.argv[1:]):
        return print(__doc__)
    if len(sys.argv) > 1:
        return run(sys.argv[1])
    from distributed import LocalCluster

    # On a batch system: dask_jobqueue.SLURMCluster(...), then cluster.scale(jobs=4); the rest stays
    # as it is.
    with LocalCluster(
        n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        print(f"driver is process {os.getpid()}, scheduler {cluster.scheduler_address}")
        return run(cluster)


if __name__ == "__main__":
    main()
