"""Ctrl-C between two changes of state, never within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Holds an interrupt from the keyboard back until it is allowed: one that strikes inside ``tell`` would leave, and save, half a step.

    A context manager. It acts in the main thread, where Python delivers interrupts, and only if nobody else has taken them over.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._came = False
        self._active = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._take)
            self._active = True
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._active:
            return
        self._active = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._came and kind is None:
            self._came = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Within it an interrupt strikes at once; one that was held back strikes here."""
        self._allowed = True
        try:
            if self._came:
                self._came = False
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._allowed or self._came:  # whoever asks twice does not wait for the state
            raise KeyboardInterrupt
        self._came = True
