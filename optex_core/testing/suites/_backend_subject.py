"""A backend under test: the object or name that came, made when the first check asks for it; a
library or device that is missing skips.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from optex_core._validation import short_repr
from optex_core.backends import BACKEND_NAMES, get_backend
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentTypeError, BackendError
from optex_core.testing.check_suite import CheckFailed, CheckSkipped, CheckSuite


@dataclass(frozen=True)
class Subject:
    """A backend, made when the first check asks for it."""

    label: str
    make: Callable[[], Backend]

    @property
    def backend(self) -> Backend:
        return self.make()


def prepare(backend: Any) -> Subject:
    """A name or an object."""
    if isinstance(backend, Backend):
        return Subject(
            type(backend).__name__ if not getattr(backend, "name", "") else backend.name,
            lambda: backend,
        )
    if not isinstance(backend, str):
        raise ArgumentTypeError(
            f"check_backend takes a backend or its name, got {short_repr(backend)}"
        )
    if backend not in BACKEND_NAMES:
        get_backend(backend)  # says what there is
    return Subject(backend, lambda: _usable(backend))


def _usable(name: str) -> Backend:
    library = {"numpy": "NumPy", "numba": "Numba", "cupy": "CuPy"}.get(name, name)
    if importlib.util.find_spec(name) is None:
        raise CheckSkipped(f"{library} is not installed")
    if name == "cupy":
        import cupy

        try:
            usable = cupy.cuda.is_available()
        except cupy.cuda.runtime.CUDARuntimeError:  # a CUDA runtime without a driver
            usable = False
        if not usable:
            raise CheckSkipped("no CUDA device")
    try:
        return get_backend(name)
    except BackendError as error:
        raise CheckFailed(f"the backend does not start: {error}") from error


def _registered_subjects() -> Iterable[str]:
    return BACKEND_NAMES


SUITE = CheckSuite("backend", prepare, _registered_subjects)
