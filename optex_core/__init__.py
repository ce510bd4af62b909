"""optex_core: fewer sequential rounds for first-order optimization, by evaluating several gradients
at once.

>>> import optex_core as ox
>>> res = ox.minimize(lambda x: (x @ x, 2 * x), [3.0, -4.0], optimizer=ox.SGD(0.1), gtol=1e-6)
>>> bool(res.success)
True

Names are loaded on first use: importing the package imports NumPy and nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optex_core import adapters, async_sgd, optimizers, problems, strategies, testing
    from optex_core._minimize import minimize, scipy_method
    from optex_core.engine.optex import OptEx
    from optex_core.engine.result import Result
    from optex_core.engine.stopping import Status
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
    from optex_core.optimizers import (
        LBFGS,
        SGD,
        SOAP,
        AdaBelief,
        Adadelta,
        Adagrad,
        Adam,
        AdamW,
        AMSGrad,
        BestSoFar,
        ClipByNorm,
        ClipByValue,
        Lion,
        NAdam,
        Prodigy,
        Projected,
        RAdam,
        RMSprop,
        Shampoo,
        WeightDecay,
        schedules,
    )
    from optex_core.optimizers.parameter_blocks import flatten
    from optex_core.runs.learning_rate import suggest_learning_rate
    from optex_core.runs.warmup import warm_up
    from optex_core.types import Candidate, Context

#: Module -> the public names that it defines. Optimizers are found by their folder.
_EXPORTS = {
    "_minimize": "minimize scipy_method",
    "engine.optex": "OptEx",
    "engine.result": "Result",
    "engine.stopping": "Status",
    "errors": "ArgumentError ArgumentTypeError BackendError CapabilityError CheckpointError "
    "EvaluationError MissingExtraError ObjectiveError OptexError ProtocolError",
    "execution.workers.root_pool": "RootPool",
    "model.estimator": "GradientEstimator",
    "optimizers.parameter_blocks": "flatten",
    "runs.learning_rate": "suggest_learning_rate",
    "runs.warmup": "warm_up",
    "types": "Candidate Context",
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names.split()}
#: Public name -> subpackage or module.
_SUBPACKAGES = {
    **{name: name for name in ("adapters", "async_sgd", "optimizers", "problems", "strategies")},
    "executors": "execution.factory",
    "kernels": "model.kernels",
    "schedules": "optimizers.schedules",
    "testing": "testing",
}

__version__ = "0.1.0"
__all__ = [
    "AMSGrad", "AdaBelief", "Adadelta", "Adagrad", "Adam", "AdamW", "ArgumentError",
    "ArgumentTypeError", "BackendError", "BestSoFar", "Candidate", "CapabilityError",
    "CheckpointError", "ClipByNorm", "ClipByValue", "Context", "EvaluationError",
    "GradientEstimator", "LBFGS", "Lion", "MissingExtraError", "NAdam", "ObjectiveError", "OptEx",
    "OptexError", "Prodigy", "Projected", "ProtocolError", "RAdam", "RMSprop", "Result", "RootPool",
    "SGD", "SOAP", "Shampoo", "Status", "WeightDecay", "adapters", "async_sgd", "executors",
    "flatten", "kernels", "minimize", "optimizers", "problems", "schedules", "scipy_method",
    "strategies", "suggest_learning_rate", "testing", "warm_up",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _SUBPACKAGES:
        value: object = importlib.import_module(f"optex_core.{_SUBPACKAGES[name]}")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"optex_core.{_MODULES[name]}"), name)
    else:
        value = _optimizer(name) if name[:1].isupper() else None
        if value is None:
            raise AttributeError(f"module 'optex_core' has no attribute {name!r}")
    globals()[name] = value
    return value


def _optimizer(name: str) -> object | None:
    """A registered optimizer or wrapper: a new file is public without an entry above."""
    from optex_core.optimizers import OPTIMIZERS, WRAPPERS

    entries = (*OPTIMIZERS.values(), *WRAPPERS.values())
    return next((entry for entry in entries if entry.__name__ == name), None)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
