"""First-order optimizers: one file for each rule, Adam with its variants, found by this folder.

Every registered optimizer and wrapper is an attribute: ``optimizers.Adam``. `base` has the recipe
for a new one.
"""

from typing import TYPE_CHECKING

from optex_core._registry import plugin_attributes
from optex_core.optimizers._on_backend import OptimizerOnBackend, bind_optimizer
from optex_core.optimizers.base import (
    OPTIMIZERS,
    WRAPPERS,
    ElementwiseOptimizer,
    ElementwiseState,
    Optimizer,
    get_optimizer,
)

if TYPE_CHECKING:
    from optex_core.optimizers.adadelta import Adadelta as Adadelta
    from optex_core.optimizers.adagrad import Adagrad as Adagrad
    from optex_core.optimizers.adam import AdaBelief as AdaBelief
    from optex_core.optimizers.adam import Adam as Adam
    from optex_core.optimizers.adam import AdamW as AdamW
    from optex_core.optimizers.adam import AMSGrad as AMSGrad
    from optex_core.optimizers.adam import NAdam as NAdam
    from optex_core.optimizers.adam import RAdam as RAdam
    from optex_core.optimizers.lbfgs import LBFGS as LBFGS
    from optex_core.optimizers.lion import Lion as Lion
    from optex_core.optimizers.prodigy import Prodigy as Prodigy
    from optex_core.optimizers.rmsprop import RMSprop as RMSprop
    from optex_core.optimizers.sgd import SGD as SGD
    from optex_core.optimizers.shampoo import Shampoo as Shampoo
    from optex_core.optimizers.soap import SOAP as SOAP
    from optex_core.optimizers.wrappers import BestSoFar as BestSoFar
    from optex_core.optimizers.wrappers import ClipByNorm as ClipByNorm
    from optex_core.optimizers.wrappers import ClipByValue as ClipByValue
    from optex_core.optimizers.wrappers import Projected as Projected
    from optex_core.optimizers.wrappers import WeightDecay as WeightDecay

__all__ = [
    "OPTIMIZERS",
    "WRAPPERS",
    "ElementwiseOptimizer",
    "ElementwiseState",
    "Optimizer",
    "OptimizerOnBackend",
    "bind_optimizer",
    "get_optimizer",
]

__getattr__, __dir__ = plugin_attributes(__name__, __all__, OPTIMIZERS, WRAPPERS)
