"""Optimizers as text: ``sgd(learning_rate=0.5, momentum=0.9)``, wrappers and schedules within."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from optex_core.errors import ArgumentError, did_you_mean
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS, get_optimizer
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.types import FirstOrderOptimizer


def read_optimizer(text: str, learning_rate: float | None = None) -> FirstOrderOptimizer:
    """The optimizer that `text` describes, or ArgumentError: a name, which `learning_rate` is for,
    or a call of a name with settings.

    Settings are Python literals, or calls again: ``adam(cosine(initial=0.1, steps=200))``,
    ``clip_by_norm(sgd(0.1), 1.0)``.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ArgumentError(
            f"--optimizer takes a name or name(setting=value, ...), such as "
            f"'sgd(learning_rate=0.5, momentum=0.9)', got {text!r}"
        ) from error
    if isinstance(node, ast.Name):
        kind: Callable[..., FirstOrderOptimizer] = OPTIMIZERS[node.id]
        if learning_rate is not None:
            return kind(learning_rate)
        try:
            return get_optimizer(node.id)
        except ArgumentError as error:
            raise ArgumentError(
                f"{node.id} has no default learning rate; give --learning-rate, or "
                f"--optimizer '{node.id}(learning_rate=...)'"
            ) from error
    if learning_rate is not None:
        raise ArgumentError(
            f"--learning-rate is for an optimizer given by its name; write it into {text!r}"
        )
    return get_optimizer(_value(node, text))


def _value(node: ast.AST, text: str) -> Any:
    """A literal, or the object that a call makes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known: dict[str, Callable[..., object]] = {**OPTIMIZERS, **WRAPPERS, **SCHEDULES}
        name = node.func.id
        if name not in known:
            raise ArgumentError(
                f"--optimizer {text!r}: unknown optimizer {name!r}{did_you_mean(name, known)}"
            )
        if any(keyword.arg is None for keyword in node.keywords):
            raise ArgumentError(f"--optimizer {text!r}: settings are written name=value")
        given = [_value(part, text) for part in node.args]
        named = {str(part.arg): _value(part.value, text) for part in node.keywords}
        try:
            return known[name](*given, **named)
        except TypeError as error:
            raise ArgumentError(f"--optimizer {text!r}: {error}") from error
    if isinstance(node, ast.Name) and node.id in OPTIMIZERS:
        return get_optimizer(node.id)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ArgumentError(
            f"--optimizer {text!r}: {ast.unparse(node)!r} is no number, text, tuple or call"
        ) from error
