"""Deferral of Ctrl-C to moments at which the state of a run is consistent."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class DeferredInterrupt:
    """Context manager that holds Ctrl-C back until it is allowed: within ``tell`` it would leave,
    and save, half a step.

    It acts in the main thread, where Python delivers interrupts, and only if nobody else has taken
    them over. A second interrupt does not wait.
    """

    def __init__(self) -> None:
        self.state_is_consistent = False  # True if the interrupt was raised where it was allowed
        self._pending = self._active = self._interruptible = False

    def __enter__(self) -> DeferredInterrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_sigint)
            self._active = True
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._active:
            return
        self._active = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._pending and kind is None:
            self._raise()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context within which interrupts are raised, first of all one that was held back."""
        self._interruptible = True  # before the look at what was held back: none is missed
        try:
            if self._pending:
                self._raise()
            yield
        except KeyboardInterrupt:
            self.state_is_consistent = True
            raise
        finally:
            self._interruptible = False

    def _raise(self) -> None:
        self._pending, self.state_is_consistent = False, True
        raise KeyboardInterrupt

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible:
            self._raise()
        if self._pending:  # whoever asks twice does not wait for the state
            raise KeyboardInterrupt
        self._pending = True
