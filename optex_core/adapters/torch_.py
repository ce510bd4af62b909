"""PyTorch module as an objective of a flat vector."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from optex_core._validation import callable_, short_repr
from optex_core.adapters.call_signature import takes_seed
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError, MissingExtraError

#: Torch has one generator per process: evaluations that draw from it take turns.
_rng_lock = threading.Lock()


class TorchFunction:
    """``fun(x) -> (loss, gradient)`` of a module's parameters; made by `torch`.

    Attributes
    ----------
    x0 : ndarray, shape (d,)
        The parameters as they were, in the order of ``module.named_parameters()``; those with
        ``requires_grad=False`` stay as they are.
    wants_seed : bool
        Whether the loss takes ``seed``, or the module draws random numbers, as dropout does.
    """

    def __init__(self, module: Any, loss: Callable[..., Any]) -> None:
        self._module, self._loss = module, loss
        self._parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self._parameters:
            raise ArgumentError("the module has no parameters with requires_grad=True")
        kinds = {p.dtype for _, p in self._parameters}
        if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds):
            found = ", ".join(sorted(map(str, kinds)))
            raise ArgumentError(f"the parameters must have one floating dtype, got {found}")
        try:
            parts = [p.detach().cpu().numpy().ravel() for _, p in self._parameters]
        except TypeError as error:
            raise ArgumentError(
                f"NumPy has no numbers of {next(iter(kinds))}; use module.float() or "
                "module.double()"
            ) from error
        self.x0 = np.concatenate(parts)
        self._seeded = takes_seed(loss)

    @property
    def wants_seed(self) -> bool:
        return self._seeded or _uses_rng(self._module)

    def value_and_grad(self, x: np.ndarray, *, seed: int = 0) -> tuple[float, np.ndarray]:
        """Loss and gradient at x, shape (d,). The module itself is not changed: parameters and
        buffers are handed to it for this call.
        """
        import torch as library

        if not isinstance(x, np.ndarray) or x.shape != self.x0.shape:
            raise ArgumentTypeError(
                f"this module has {len(self.x0)} free parameters, got {short_repr(x)}"
            )
        if self._seeded or not _uses_rng(self._module):
            return self._evaluate(library, x, {"seed": seed} if self._seeded else {})
        with _rng_lock, library.random.fork_rng():
            library.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
            return self._evaluate(library, x, {})

    __call__ = value_and_grad

    def __repr__(self) -> str:
        return f"TorchFunction({type(self._module).__name__}, {len(self.x0)} parameters)"

    def write(self, x: np.ndarray) -> None:
        """Set the module's parameters to x: ``fun.write(res.x)`` at the end."""
        import torch as library

        with library.no_grad():
            for (_, p), values in zip(self._parameters, self._split(library, x), strict=True):
                p.copy_(values)

    def _split(self, library: ModuleType, x: np.ndarray) -> list[Any]:
        parts, begin = [], 0
        for _, p in self._parameters:
            part = library.as_tensor(np.ascontiguousarray(x[begin : begin + p.numel()]))
            parts.append(part.to(device=p.device, dtype=p.dtype).reshape(p.shape))
            begin += p.numel()
        return parts

    def _evaluate(
        self, library: ModuleType, x: np.ndarray, extra: dict[str, Any]
    ) -> tuple[float, np.ndarray]:
        leaves = [t.detach().clone().requires_grad_() for t in self._split(library, x)]
        state = dict(zip((name for name, _ in self._parameters), leaves, strict=True))
        # Running means of normalisation layers are written during a call: into copies, or the order
        # of evaluations would matter.
        state |= {name: b.clone() for name, b in self._module.named_buffers()}

        def call(*args: object, **kwargs: object) -> object:
            return library.func.functional_call(self._module, state, args, kwargs)

        with library.enable_grad():
            loss = self._loss(call, **extra)
            if not isinstance(loss, library.Tensor) or loss.numel() != 1:
                raise EvaluationError(
                    f"the loss must return a tensor with one number, got {short_repr(loss)}"
                )
            grads = library.autograd.grad(loss, leaves, allow_unused=True)
        flat = [
            np.zeros(p.numel(), x.dtype) if g is None else g.detach().cpu().numpy().ravel()
            for g, (_, p) in zip(grads, self._parameters, strict=True)
        ]
        return float(loss.detach()), np.concatenate(flat)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (copy.deepcopy(self._module), self._loss)


def torch(module: object, loss: Callable[..., object]) -> TorchFunction:
    """Make ``fun`` of a PyTorch module: its parameters as a vector in, loss and gradient out.

    Parameters
    ----------
    module : torch.nn.Module
        Its free parameters are x, in the order of ``named_parameters()``. It may be on a GPU:
        vectors are copied there and back.
    loss : callable
        ``loss(model)`` returns a tensor with one number; `model` is called as the module. With a
        keyword-only ``seed`` it is given the seed of the evaluation and may draw a minibatch by it;
        else, if the module has layers that draw (dropout), torch's generator is seeded for each
        evaluation, and threads take turns.

    Returns
    -------
    TorchFunction
        A callable ``fun(x)`` with ``x0`` to start from and ``write(x)`` for the end.

    Examples
    --------
    ::

        fun = ox.adapters.torch(net, lambda model: ((model(inputs) - targets) ** 2).mean())
        res = ox.minimize(fun, fun.x0, optimizer=ox.Adam(1e-2), parallelism=4, workers="threads")
        fun.write(res.x)
    """
    try:
        from torch.nn import Module
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("torch", "torch", "ox.adapters.torch") from error
    if not isinstance(module, Module):
        raise ArgumentTypeError(f"module must be a torch.nn.Module, got {short_repr(module)}")
    return TorchFunction(module, callable_("loss", loss))


def _uses_rng(module: Any) -> bool:
    """True if a call of the module may draw random numbers."""
    for part in module.modules():
        name, share = type(part).__name__, getattr(part, "dropout", 0.0)
        if part.training and (
            "Dropout" in name or name == "RReLU" or (isinstance(share, float) and share > 0)
        ):
            return True
    return False
