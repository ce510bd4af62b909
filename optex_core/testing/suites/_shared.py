"""Shared parts of check suites: a subject from a name, a class or an object, and runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentTypeError, OptexError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.types import Array, Candidate, FirstOrderOptimizer

T = TypeVar("T")
Function = Callable[[Array], tuple[float, np.ndarray]]


def labelled(kind: str, given: object, base: type, get: Callable[..., T]) -> tuple[str, T]:
    """A registered name, a class that needs no settings, or an object, as a label and an object."""
    made = given() if isinstance(given, type) and issubclass(given, base) else given
    if not isinstance(made, (str, base)):
        raise ArgumentTypeError(
            f"check_{kind} takes a {kind}, its class or its name, got {short_repr(given)}"
        )
    return given if isinstance(given, str) else repr(made), get(made)


def plain_path(
    optimizer: FirstOrderOptimizer, x: Array, function: Function, steps: int
) -> list[Array]:
    """The points after 0, 1, ... steps of the optimizer alone."""
    bound, path = bind_optimizer(optimizer), [x]
    state = bound.init(x)
    for _ in range(steps):
        value, g = function(path[-1])
        x, state = bound.step(path[-1], g, state, value=value)
        path.append(x)
    return path


def drive(
    engine: OptEx,
    function: Function,
    look: Callable[[list[Candidate]], Iterable[Candidate]] = list,
    lose: Callable[[Candidate], bool] = lambda _: False,
    iterations: int | None = None,
) -> list[np.ndarray]:
    """Run `engine` on what `look` gives of the candidates; `lose` picks failures. The iterates."""
    path = [np.array(engine.state.x)]
    while not engine.stop() and (iterations is None or len(path) <= iterations):
        for c in look(engine.ask()):
            if lose(c):
                engine.tell(c.id, error=RuntimeError("lost"))
            else:
                value, gradient = function(c.x)
                engine.tell(c.id, gradient=gradient, value=value)
        path.append(np.array(engine.state.x))
    return path


def reloaded(engine: OptEx, **again: Any) -> OptEx:
    """The engine saved and loaded; `again` is what JSON may not hold, passed a second time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run"
        engine.save(file)
        try:
            return OptEx.load(file)
        except OptexError:  # asks for what is not registered
            return OptEx.load(file, **again)
