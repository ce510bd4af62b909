"""Ctrl-C between two changes of state, never within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupts:
    """Holds an interrupt from the keyboard back until it is allowed: one that strikes inside ``tell`` would leave, and save, half a step.

    A context manager. It acts in the main thread, where Python delivers interrupts, and only if nobody else has taken them over. A second
    interrupt does not wait for the state: it strikes wherever it comes.

    Attributes
    ----------
    clean : bool
        True if the interrupt struck where it was allowed: the state is whole.
    """

    def __init__(self) -> None:
        self.clean = False
        self._allowed = _Allowed(self)
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
            self._strike()

    def allowed(self) -> _Allowed:
        """A context within which an interrupt strikes at once; one that was held back strikes when it is entered."""
        return self._allowed

    def _strike(self) -> None:
        self._came, self.clean = False, True
        raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._allowed.entered:
            self._strike()
        if self._came:  # whoever asks twice does not wait for the state
            raise KeyboardInterrupt
        self._came = True


class _Allowed:
    """The context of `Interrupts.allowed`; a class, since it is entered once per evaluation and a generator takes three times as long."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self.entered = False

    def __enter__(self) -> None:
        self.entered = True
        if self._interrupts._came:
            self.entered = False
            self._interrupts._strike()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.entered = False
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._interrupts.clean = True
