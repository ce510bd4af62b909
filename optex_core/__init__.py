"""optex_core: fewer sequential rounds for first-order optimization, by evaluating several gradients at once.

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
    from optex_core import adapters, async_sgd, kernels, problems, schedules, strategies, testing
    from optex_core.adapters.scipy_ import scipy_method
    from optex_core.blocks import flatten
    from optex_core.driver import minimize
    from optex_core.engine import OptEx
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
    from optex_core.estimator import GradientEstimator
    from optex_core.execution import executors
    from optex_core.execution.roots import RootPool
    from optex_core.optimizers.adabelief import AdaBelief
    from optex_core.optimizers.adadelta import Adadelta
    from optex_core.optimizers.adagrad import Adagrad
    from optex_core.optimizers.adam import Adam
    from optex_core.optimizers.adamw import AdamW
    from optex_core.optimizers.amsgrad import AMSGrad
    from optex_core.optimizers.lion import Lion
    from optex_core.optimizers.nadam import NAdam
    from optex_core.optimizers.radam import RAdam
    from optex_core.optimizers.rmsprop import RMSprop
    from optex_core.optimizers.sgd import SGD
    from optex_core.optimizers.shampoo import Shampoo
    from optex_core.optimizers.wrappers import BestSoFar, ClipByNorm, ClipByValue, Projected, WeightDecay
    from optex_core.result import Result
    from optex_core.status import Status
    from optex_core.types import Candidate, Context
    from optex_core.warming import warm_up

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
    "GradientEstimator": "estimator",
    "Lion": "optimizers.lion",
    "NAdam": "optimizers.nadam",
    "OptEx": "engine",
    "RAdam": "optimizers.radam",
    "RMSprop": "optimizers.rmsprop",
    "Result": "result",
    "RootPool": "execution.roots",
    "SGD": "optimizers.sgd",
    "Shampoo": "optimizers.shampoo",
    "Status": "status",
    "flatten": "blocks",
    "minimize": "driver",
    "scipy_method": "adapters.scipy_",
    "warm_up": "warming",
}  # fmt: skip
_ROOMS = ("adapters", "async_sgd", "executors", "kernels", "problems", "schedules", "strategies", "testing")
_MOVED = {"executors": "execution.executors"}

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
