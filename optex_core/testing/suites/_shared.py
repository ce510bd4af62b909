"""What several check suites make of their argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError

T = TypeVar("T")


def labelled(kind: str, given: object, base: type, get: Callable[..., T]) -> tuple[str, T]:
    """A registered name, a class that needs no settings, or an object, as a label and an object."""
    made = given() if isinstance(given, type) and issubclass(given, base) else given
    if not isinstance(made, (str, base)):
        raise ArgumentTypeError(
            f"check_{kind} takes a {kind}, its class or its name, got {short_repr(given)}"
        )
    return given if isinstance(given, str) else repr(made), get(made)
