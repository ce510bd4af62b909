"""Train a network on real images (scikit-learn's digits) with Adam and with Shampoo, whose roots
are computed by a worker process meanwhile.

Run: python examples/shampoo_network.py [steps] [folder for the picture]
"""

import os
import sys
import time

import numpy as np

import optex_core as ox


def load():
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data / 16.0, np.eye(10)[data.target]


def network(x, unflatten, X, Y):
    """Mean cross-entropy of a tanh network, its gradient, and the share of right answers."""
    p = unflatten(x)
    H = np.tanh(X @ p["w1"] + p["b1"])
    Z = H @ p["w2"] + p["b2"]
    Z -= Z.max(1, keepdims=True)
    L = Z - np.log(np.exp(Z).sum(1, keepdims=True))
    to_Z = (np.exp(L) - Y) / len(X)
    to_H = (to_Z @ p["w2"].T) * (1 - H * H)
    gradient = {"w1": X.T @ to_H, "b1": to_H.sum(0), "w2": H.T @ to_Z, "b2": to_Z.sum(0)}
    return -(L * Y).sum() / len(X), ox.flatten(gradient)[0], (Z.argmax(1) == Y.argmax(1)).mean()


def train(optimizer, x, unflatten, X, Y, steps, batch=256):
    rng, state, losses, seconds = np.random.default_rng(0), optimizer.init(x), [], []
    for _ in range(steps):
        rows = rng.choice(len(X), batch, replace=False)
        begin = time.perf_counter()
        _, gradient, _ = network(x, unflatten, X[rows], Y[rows])
        x, state = optimizer.step(x, gradient, state)
        seconds.append(time.perf_counter() - begin)
        losses.append(network(x, unflatten, X, Y)[0])
    return x, state, losses, seconds


def main(steps=150, folder=None):
    X, Y = load()
    X, Y, seen_X, seen_Y = X[:1400], Y[:1400], X[1400:], Y[1400:]
    rng = np.random.default_rng(0)
    start = {
        "w1": rng.normal(size=(64, 96)) / 8,
        "b1": np.zeros(96),
        "w2": rng.normal(size=(96, 10)) / 10,
        "b2": np.zeros(10),
    }
    # one flat vector; unflatten.shapes says where the matrices are
    x, unflatten = ox.flatten(start)

    plain = ox.Adam(1e-2)
    # without it the roots are computed in this thread, and the numbers are the same
    with ox.RootPool(1) as pool:
        optimizer = ox.Shampoo(3e-2, shapes=unflatten.shapes, interval=5, delay=2, roots=pool)
        print(optimizer.plan(show=False), "\n")
        found, state, losses, spent = train(optimizer, x, unflatten, X, Y, steps)
    alone, _, baseline, plainly = train(plain, x, unflatten, X, Y, steps)
    print("Shampoo:", optimizer.report(state))
    for name, curve, at, seconds in (
        ("Adam", baseline, alone, plainly),
        ("Shampoo", losses, found, spent),
    ):
        first = next((t + 1 for t, loss in enumerate(curve) if loss <= baseline[-1]), None)
        right = network(at, unflatten, seen_X, seen_Y)[2]
        sooner = "never" if first is None else f"after step {first}, {sum(seconds[:first]):.2f} s"
        print(
            f"{name:8s} loss {curve[-1]:.4f}, {right:.1%} right on images not trained "
            f"on; {1e3 * np.median(seconds):.1f} ms a step"
        )
        print(f"         Adam's last loss {sooner}")
    print("(Shampoo's first steps wait for the worker process to start.)")
    if folder is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.semilogy(baseline, label="Adam")
        axes.semilogy(losses, label="Shampoo")
        axes.set_xlabel("steps")
        axes.set_ylabel("loss on all training images")
        axes.legend()
        figure.savefig(os.path.join(folder, "shampoo.png"))
    return losses, baseline


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    else:
        main(
            *(int(a) for a in arguments[:1]),
            **({"folder": arguments[1]} if len(arguments) > 1 else {}),
        )
