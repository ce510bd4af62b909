"""SOAP of pytorch_optimizer with the interface of our optimizers."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np

from optex_core.errors import MissingExtraError
from optex_core.optimizers.parameter_blocks import blocks_from_shapes

#: Parameters as tensors, and the optimizer that holds them.
PeerState: TypeAlias = tuple[list[Any], Any]


class PeerSOAP:
    """`pytorch_optimizer.SOAP` in float64, with matrices for vectors, as ours has them, and without
    weight decay; everything else is its default.

    Without matrices for vectors its losses in batches of 256 are twice to three times as large.

    Parameters
    ----------
    learning_rate : float
    shapes : dict
        As of `SOAP`.
    b1, b2 : float
    interval : int
        Steps between bases.

    Raises
    ------
    MissingExtraError
        If PyTorch or pytorch_optimizer is not installed.
    """

    def __init__(
        self, learning_rate: float, shapes: object, *, b1: float, b2: float, interval: int
    ) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
            self._soap: Any = importlib.import_module("pytorch_optimizer").SOAP
        except ImportError as error:
            raise MissingExtraError(
                "the part peer needs PyTorch and pytorch_optimizer; run: python -m pip install "
                "torch pytorch_optimizer"
            ) from error
        self._blocks = blocks_from_shapes(shapes)
        self._settings = {
            "lr": learning_rate,
            "betas": (b1, b2),
            "precondition_frequency": interval,
            "precondition_1d": True,
            "weight_decay": 0.0,
        }

    def init(self, x: np.ndarray) -> PeerState:
        """Parameters as tensors, and the peer's optimizer that holds them."""
        tensors = [
            self._torch.tensor(x[block.slice].reshape(block.shape), requires_grad=True)
            for block in self._blocks
        ]
        return tensors, self._soap(tensors, **self._settings)

    def step(self, x: np.ndarray, g: np.ndarray, state: PeerState) -> tuple[np.ndarray, PeerState]:
        """The parameters after one step; the peer's own state changes in place."""
        tensors, optimizer = state
        for block, tensor in zip(self._blocks, tensors, strict=True):
            tensor.grad = self._torch.tensor(g[block.slice].reshape(block.shape))
        optimizer.step()
        return np.concatenate([t.detach().numpy().ravel() for t in tensors]), state
