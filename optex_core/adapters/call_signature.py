"""User callable and how it wants to be called; its signature is read once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.types import Array, Context


@dataclass(frozen=True, slots=True)
class UserCallable:
    """Callable together with the extra keywords it understands."""

    function: Callable[..., object]  # ``function(x, *args)``
    args: tuple[object, ...]  # the extra positional arguments
    #: Whether it is also given ``seed=int`` and ``ctx=Context``; tuples of both for a batch.
    wants_seed: bool
    wants_ctx: bool

    def __call__(self, x: Array, context: Context | tuple[Context, ...]) -> Any:
        """Call the function at `x`; for a batch, `context` is a tuple with one entry per row."""
        extra: dict[str, object] = {}
        if self.wants_seed:
            extra["seed"] = (
                tuple(c.seed for c in context) if isinstance(context, tuple) else context.seed
            )
        if self.wants_ctx:
            extra["ctx"] = context
        return self.function(x, *self.args, **extra)


def takes_seed(function: object) -> bool:
    """True for a callable with a keyword-only ``seed`` that has not been chosen: its evaluations
    are random. Also for an object whose ``value_and_grad`` has it; adapters say it of what they
    wrap by `wants_seed`.
    """
    if isinstance(said := getattr(function, "wants_seed", None), bool):
        return said
    function = getattr(function, "value_and_grad", function)
    wanted = _seed_and_ctx(function) if callable(function) else None
    return wanted is not None and wanted[0]


def make_user_callable(function: Callable[..., object], args: tuple[object, ...]) -> UserCallable:
    """A callable that is given the keyword-only ``seed`` and the ``ctx`` that it has."""
    wanted = _seed_and_ctx(function)
    if wanted is None:
        return UserCallable(function, args, False, False)
    wants_seed, wants_ctx = wanted
    given = {name: None for name, wanted in (("seed", wants_seed), ("ctx", wants_ctx)) if wanted}
    try:
        # Of itself and not of what it wraps: a decorator may add arguments.
        inspect.signature(function, follow_wrapped=False).bind(None, *args, **given)
    except TypeError as error:
        passed = " and ".join(["x", *([f"args={short_repr(args)}"] if args else []), *given])
        raise ArgumentTypeError(
            f"{callable_name(function)} cannot be called with {passed}: {error}"
        ) from error
    except ValueError:
        pass  # as in `_seed_and_ctx`
    return UserCallable(function, args, wants_seed, wants_ctx)


def _seed_and_ctx(function: Callable[..., object]) -> tuple[bool, bool] | None:
    """Whether `function` takes ``seed`` and ``ctx``; None where it has no signature."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # Some compiled callables have none: they are called with x and args alone.
        return None
    inner = function
    # partial(fun, seed=3) shows `seed` as keyword-only, but the user has chosen its value.
    while isinstance(inner, functools.partial):
        for name in inner.keywords:
            parameters.pop(name, None)
        inner = inner.func
    seed, ctx = parameters.get("seed"), parameters.get("ctx")
    return (
        seed is not None and seed.kind is seed.KEYWORD_ONLY,
        ctx is not None and ctx.kind in (ctx.KEYWORD_ONLY, ctx.POSITIONAL_OR_KEYWORD),
    )


def callable_name(function: object) -> str:
    """The name under which error messages speak of `function`."""
    while isinstance(function, functools.partial):
        function = function.func
    names = (getattr(function, name, None) for name in ("__qualname__", "__name__"))
    return next((name for name in names if name), None) or type(function).__qualname__
