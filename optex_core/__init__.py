"""optex_core: fewer sequential rounds for first-order optimization, by evaluating several gradients
at once.

>>> import optex_core as ox
>>> res = ox.minimize(lambda x: (x @ x, 2 * x), [3.0, -4.0], optimizer=ox.SGD(0.1), parallelism=4, gtol=1e-6)
>>> bool(res.success)
True

Names are loaded on first use: importing the package imports NumPy and nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optex_core import adapters, async_sgd, problems, strategies, testing
    from optex_core._minimize import minimize, scipy_method
    from optex_core.engine.optex import OptEx
    from optex_core.engine.result import Result
    from optex_core.engine.status import Status
    from optex_core.errors import (
        ArgumentError,
        ArgumentTypeError,
        BackendError,
        CapabilityError,
        CheckpointError,
        EvaluationError,
        MissingExtraError,
        ObjectiveError,
        OptexError,
        ProtocolError,
    )
    from optex_core.execution import factory as executors
    from optex_core.execution.workers.root_pool import RootPool
    from optex_core.model import kernels
    from optex_core.model.estimator import GradientEstimator
    from optex_core.optimizers import schedules
    from optex_core.optimizers.adabelief import AdaBelief
    from optex_core.optimizers.adadelta import Adadelta
    from optex_core.optimizers.adagrad import Adagrad
    from optex_core.optimizers.adam import Adam
    from optex_core.optimizers.adamw import AdamW
    from optex_core.optimizers.amsgrad import AMSGrad
    from optex_core.optimizers.lion import Lion
    from optex_core.optimizers.nadam import NAdam
    from optex_core.optimizers.parameter_blocks import flatten
    from optex_core.optimizers.radam import RAdam
    from optex_core.optimizers.rmsprop import RMSprop
    from optex_core.optimizers.sgd import SGD
    from optex_core.optimizers.shampoo import Shampoo
    from optex_core.optimizers.wrappers import (
        BestSoFar,
        ClipByNorm,
        ClipByValue,
        Projected,
        WeightDecay,
    )
    from optex_core.runs.warmup import warm_up
    from optex_core.types import Candidate, Context

#: Public name -> module that defines it.
_HOMES = {
    **dict.fromkeys(
        (
            "ArgumentError", "ArgumentTypeError", "BackendError", "CapabilityError", "CheckpointError", "EvaluationError", "MissingExtraError",
            "ObjectiveError", "OptexError", "ProtocolError",
        ),
        "errors",
    ),
    **dict.fromkeys(("BestSoFar", "ClipByNorm", "ClipByValue", "Projected", "WeightDecay"), "optimizers.wrappers"),
    **dict.fromkeys(("Candidate", "Context"), "types"),
    "AMSGrad": "optimizers.amsgrad",
    "AdaBelief": "optimizers.adabelief",
    "Adadelta": "optimizers.adadelta",
    "Adagrad": "optimizers.adagrad",
    "Adam": "optimizers.adam",
    "AdamW": "optimizers.adamw",
    "GradientEstimator": "model.estimator",
    "Lion": "optimizers.lion",
    "NAdam": "optimizers.nadam",
    "OptEx": "engine.optex",
    "RAdam": "optimizers.radam",
    "RMSprop": "optimizers.rmsprop",
    "Result": "engine.result",
    "RootPool": "execution.workers.root_pool",
    "SGD": "optimizers.sgd",
    "Shampoo": "optimizers.shampoo",
    "Status": "engine.status",
    "flatten": "optimizers.parameter_blocks",
    "minimize": "_minimize",
    "scipy_method": "_minimize",
    "warm_up": "runs.warmup",
}  # fmt: skip
_ROOMS = (
    "adapters",
    "async_sgd",
    "executors",
    "kernels",
    "problems",
    "schedules",
    "strategies",
    "testing",
)
_MOVED = {
    "executors": "execution.factory",
    "kernels": "model.kernels",
    "schedules": "optimizers.schedules",
}

__version__ = "0.1.0"
__all__ = [
    "AMSGrad", "AdaBelief", "Adadelta", "Adagrad", "Adam", "AdamW", "ArgumentError", "ArgumentTypeError", "BackendError", "BestSoFar", "Candidate",
    "CapabilityError", "CheckpointError", "ClipByNorm", "ClipByValue", "Context", "EvaluationError", "GradientEstimator", "Lion", "MissingExtraError",
    "NAdam", "ObjectiveError", "OptEx", "OptexError", "Projected", "ProtocolError", "RAdam", "RMSprop", "Result", "RootPool", "SGD", "Shampoo",
    "Status", "WeightDecay", "adapters", "async_sgd", "executors", "flatten", "kernels", "minimize", "problems", "schedules", "scipy_method",
    "strategies", "testing", "warm_up",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"optex_core.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"optex_core.{_MOVED.get(name, name)}")
    else:
        value = _discovered(name)
    globals()[name] = value
    return value


def _discovered(name: str) -> Any:
    """An optimizer by its class name: a new file in optimizers/ is public without an entry above."""
    if name[:1].isupper():
        from optex_core.optimizers import OPTIMIZERS

        for entry in OPTIMIZERS.values():
            if entry.__name__ == name:
                return entry
    raise AttributeError(f"module 'optex_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
