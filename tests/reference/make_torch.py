"""Write torch_trajectories.json: where PyTorch's optimizers and schedules go, for the tests to
compare with.

Run once, by hand, in an environment that has PyTorch: ``python make_torch.py``. The tests only read
the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

STEPS = 60
KEPT = (1, 2, 3, 4, 5, 6, 7, 10, 20, 40, 60)
START = (1.0, -0.5, 0.0, 2.0, -1.5, 0.25, 0.0, 3.0)

#: (our name, our settings, PyTorch's class, PyTorch's settings)
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("sgd", {"learning_rate": 0.02}, "SGD", {"lr": 0.02}),
    ("sgd", {"learning_rate": 0.02, "momentum": 0.9}, "SGD", {"lr": 0.02, "momentum": 0.9}),
    (
        "sgd",
        {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True},
        "SGD",
        {"lr": 0.02, "momentum": 0.9, "nesterov": True},
    ),
    ("adagrad", {}, "Adagrad", {}),
    (
        "adagrad",
        {"learning_rate": 0.3, "initial_accumulator": 0.1},
        "Adagrad",
        {"lr": 0.3, "initial_accumulator_value": 0.1},
    ),
    ("adadelta", {}, "Adadelta", {}),
    (
        "adadelta",
        {"learning_rate": 2.0, "rho": 0.8, "eps": 1e-3},
        "Adadelta",
        {"lr": 2.0, "rho": 0.8, "eps": 1e-3},
    ),
    ("rmsprop", {}, "RMSprop", {}),
    (
        "rmsprop",
        {"learning_rate": 0.02, "alpha": 0.9, "momentum": 0.5},
        "RMSprop",
        {"lr": 0.02, "alpha": 0.9, "momentum": 0.5},
    ),
    (
        "rmsprop",
        {"learning_rate": 0.02, "centered": True},
        "RMSprop",
        {"lr": 0.02, "centered": True},
    ),
    (
        "rmsprop",
        {"centered": True, "momentum": 0.9, "eps": 1e-4},
        "RMSprop",
        {"centered": True, "momentum": 0.9, "eps": 1e-4},
    ),
    ("adam", {}, "Adam", {}),
    (
        "adam",
        {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-4},
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-4},
    ),
    ("adamw", {}, "AdamW", {}),
    ("adamw", {"learning_rate": 0.1, "decay": 0.3}, "AdamW", {"lr": 0.1, "weight_decay": 0.3}),
    ("amsgrad", {}, "Adam", {"amsgrad": True}),
    (
        "amsgrad",
        {"learning_rate": 0.1, "b2": 0.8},
        "Adam",
        {"lr": 0.1, "betas": (0.9, 0.8), "amsgrad": True},
    ),
    ("nadam", {}, "NAdam", {}),
    (
        "nadam",
        {"learning_rate": 0.1, "momentum_decay": 0.1},
        "NAdam",
        {"lr": 0.1, "momentum_decay": 0.1},
    ),
    ("radam", {}, "RAdam", {}),
    ("radam", {"learning_rate": 0.1, "b2": 0.9}, "RAdam", {"lr": 0.1, "betas": (0.9, 0.9)}),
]

#: Falls, stays, and falls again.
VALUES = (
    5.0, 4.0, 3.0, 3.0, 3.0, 2.9999, 3.5, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0,
    1.0, 1.0, 1.0, 1.0,
)  # fmt: skip


def gradient(x: list[float]) -> list[float]:
    """Cubic and coupled, in additions and multiplications alone (the same bits everywhere); the
    sixth entry starts at 0, the last stays 0.
    """
    last = len(x) - 1
    return [
        0.5 * x[k] * x[k] * x[k] + 0.25 * x[k] - 0.125 * x[(k + 1) % last] + 0.0625 * k
        if k < last
        else 0.0
        for k in range(last + 1)
    ]


def trajectory(kind: str, settings: dict[str, Any]) -> dict[str, list[float]]:
    """The parameters after each of the kept steps."""
    x = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, kind)([x], **settings)
    kept = {}
    for t in range(1, STEPS + 1):
        x.grad = torch.tensor(gradient(x.tolist()), dtype=torch.float64)
        optimizer.step()
        if t in KEPT:
            kept[str(t)] = x.tolist()
    return kept


def rates(
    kind: str, base: float, settings: dict[str, Any], values: tuple[float, ...] | None, steps: int
) -> list[float]:
    """The learning rate of steps 0, 1, ...; a plateau schedule is told values[t] before step t."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **settings)
    found = []
    for t in range(steps):
        if values is not None:
            schedule.step(values[t])
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if values is None and t + 1 < steps:
            schedule.step()
    return found


def main() -> None:
    """Write the file beside this script."""
    # NAdam keeps its product of momenta in the default type: float32 would cost it nine digits
    torch.set_default_dtype(torch.float64)
    plateau = {"factor": 0.5, "patience": 2, "threshold": 1e-3, "cooldown": 1, "min_lr": 0.02}
    schedules = [
        (
            "cosine",
            {"initial": 0.5, "steps": 20, "final": 0.1},
            rates("CosineAnnealingLR", 0.5, {"T_max": 20, "eta_min": 0.1}, None, 21),
        ),
        (
            "exponential",
            {"initial": 0.5, "decay": 0.9},
            rates("ExponentialLR", 0.5, {"gamma": 0.9}, None, 20),
        ),
        ("step", {"initial": 0.5, "every": 4}, rates("StepLR", 0.5, {"step_size": 4}, None, 20)),
        (
            "one_cycle",
            {"highest": 0.5, "steps": 20},
            rates("OneCycleLR", 0.1, {"max_lr": 0.5, "total_steps": 20}, None, 20),
        ),
        (
            "reduce_on_plateau",
            {
                "inner": 0.5,
                "factor": 0.5,
                "patience": 2,
                "threshold": 1e-3,
                "cooldown": 1,
                "lowest": 0.02,
            },
            rates("ReduceLROnPlateau", 0.5, plateau, VALUES, len(VALUES)),
        ),
    ]
    result = {
        "made_by": f"tests/reference/make_torch.py with PyTorch {torch.__version__}, float64, CPU",
        "start": START,
        "steps": STEPS,
        "cases": [
            {"name": name, "settings": ours, "x": trajectory(kind, theirs)}
            for name, ours, kind, theirs in CASES
        ],
        "values": VALUES,
        "schedules": [
            {"name": name, "settings": settings, "rates": numbers}
            for name, settings, numbers in schedules
        ],
    }
    lines = json.dumps(result).replace('{"name"', '\n{"name"')  # a case a line
    Path(__file__).with_name("torch_trajectories.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
