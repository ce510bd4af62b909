"""Distributed Shampoo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.optimizers._kronecker.settings import Workspace
from optex_core.optimizers._kronecker.state import KroneckerState
from optex_core.optimizers._kronecker.step import KroneckerSteps
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.shampoo.settings import ShampooSettings
from optex_core.optimizers.shampoo.step import preconditioned_step
from optex_core.types import Array


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Shampoo(KroneckerSteps, ShampooSettings):
    """Shampoo: gradients of matrices multiplied from each side by inverse roots of their own
    statistics; blocked, grafted, pipelined.

    For each tile G (a tensor block, cut where it is longer than `block_size`) and each axis i of k
    preconditioned ones, at *trusted* steps:

    H_i <- b2 H_i + (1 - b2) Gram_i(G) (b2 = 1: the sum);
    P_i = (H_i / (1 - b2^u) + ridge lambda_max I)^(-1/p), p = 2k, after u updates
    from the first that was not zero on.

    At every step, with h the gradient or its running mean:
    D = h x_1 P_1 ... x_k P_k;  w = D |graft(h)| / |D|;  x <- (1 - rate decay) x - rate w,
    or with momentum after: v <- momentum v + w;  x <- (1 - rate decay) x - rate v.

    Roots are started every `interval` trusted steps from the statistics of that step, each factor
    at its own step of the interval, and used from exactly `delay` trusted steps later on. With
    ``roots=optex_core.RootPool(...)`` they are computed elsewhere meanwhile, with the same bits.
    Predicted gradients (``trusted=False``) use the roots as they are.

    Notes
    -----
    A gradient that is not finite is left out whole: x and the state stay, `report` counts it, and
    after `max_skipped` in a row it is an error. A tile without a root (no gradient yet, or its root
    on the way) steps by its graft; the others of its tensor share out what is left of the length. A
    root whose true residual |X^p A - I| exceeds 1e-3 is not published, the earlier one stays, and
    `report` counts it. Intended differences from the paper: it takes whichever root is ready; here
    the delay is exact. It pays where gradients are costly against 4 m n (m + n) flops per m x n
    tile, and for matrices; not for vectors without structure.

    References
    ----------
    Gupta, Koren, Singer, Shampoo: preconditioned stochastic tensor optimization, ICML 2018, arXiv
    1802.09568, algorithms 1 and 2; Anil, Gupta, Koren, Regan, Singer, Scalable second order
    optimization for deep learning, arXiv 2002.09018; Shi et al., A distributed data-parallel
    PyTorch implementation of the Distributed Shampoo optimizer, arXiv 2309.06497. "Google's" is
    google-research/precondition, "Meta's" facebookresearch/optimizers, "Lingvo" tensorflow/lingvo.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> target = np.outer([1.0, 100.0], [1.0, 10.0, 100.0])
    >>> optimizer = ox.Shampoo(0.5, shapes={"w": (2, 3)}, start=1, interval=1)
    >>> x = np.zeros(6)
    >>> state = optimizer.init(x)
    >>> for _ in range(20):
    ...     x, state = optimizer.step(x, x - target.ravel(), state)
    >>> optimizer.report(state)["roots"]
    2
    """

    name: ClassVar[str] = "shampoo"

    def move(
        self,
        work: Workspace,
        x: Array,
        g: Array,
        before: KroneckerState,
        state: KroneckerState,
        rate: float,
    ) -> tuple[Array, tuple[Array, ...]]:
        return preconditioned_step(self, work, x, g, state, rate)
