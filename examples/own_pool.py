"""Your own pool: anything with the interface of concurrent.futures.Executor runs the gradients.

Run: python examples/own_pool.py
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import optex_core as ox


def slow(x):
    """A gradient that waits for something else: a server, a queue, another program."""
    time.sleep(0.1)
    return float(x @ x), 2.0 * x


def main():
    with ThreadPoolExecutor(8) as pool:
        begin = time.perf_counter()
        res = ox.minimize(
            slow, np.full(20, 3.0), optimizer=ox.SGD(0.05), parallelism=8, workers=pool, gtol=1e-3
        )
        seconds = time.perf_counter() - begin
    print(
        f"{res.njev} gradients of 0.1 s in {seconds:.2f} s: "
        f"{res.njev * 0.1 / seconds:.1f} at a time; {res.nit} rounds"
    )
    assert res.success
    return res


if __name__ == "__main__":
    main()
