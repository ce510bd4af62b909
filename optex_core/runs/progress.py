"""The live progress line: round, value, gradient norm, accepted depth, prediction error,
evaluations per second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import callable_, short_repr
from optex_core.errors import ArgumentTypeError

if TYPE_CHECKING:
    from optex_core.engine.result import Result

#: Seconds between lines where standard error is not a terminal.
LINE_INTERVAL = 5.0


def format_progress(result: Result, seconds: float) -> str:
    """One line about a run that has taken `seconds` so far."""
    history = result.history
    norm = float(abs(result.jac).max())
    parts = [f"round {result.nit}", f"value {result.fun:.6g}", f"|g| {norm:.3g}"]
    if len(history):
        parts.append(f"depth {history.accepted[-1]}/{history.window[-1]}")
        parts.append(f"prediction error {history.prediction_error[-1]:.2g}")
    parts.append(f"{result.njev / max(seconds, 1e-9):.3g} gradients/s")
    return "  ".join(parts)


class Progress:
    """What ``progress=`` asks for: nothing, a line on standard error, or a callable that gets every
    intermediate result.

    On a terminal the line is rewritten in place by tqdm (plain writes without it); elsewhere a line
    is written every 5 seconds.
    """

    def __init__(
        self,
        progress: bool | Callable[[Any], Any],
        text: Callable[[Any, float], str] = format_progress,
    ) -> None:
        if callable(progress):
            callable_("progress", progress, "the result so far")
        elif not isinstance(progress, (bool, np.bool_)):
            raise ArgumentTypeError(
                f"progress must be True, False or a callable, got {short_repr(progress)}"
            )
        self.callback = progress if callable(progress) else None
        self.active = bool(progress)
        self._format = text
        self._bar: Any = None
        self._started_at = self._last_update = time.perf_counter()

    def __enter__(self) -> Progress:
        if self.active and self.callback is None and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                # the line is then written plainly, every few seconds: tqdm only makes it prettier
                return self
            self._bar = tqdm(total=0, bar_format="{desc}", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def due(self) -> bool:
        """True if `update` is wanted now: a result costs a copy of x and of the gradient, which a
        line every 5 seconds does not need every round.
        """
        return self.active and (
            self.callback is not None
            or self._bar is not None
            or time.perf_counter() - self._last_update >= LINE_INTERVAL
        )

    def update(self, result: Result) -> None:
        """Show `result`, the run as it stands, when it is `due`."""
        if self.callback is not None:
            self.callback(result)
            return
        self._last_update = time.perf_counter()
        text = self._format(result, self._last_update - self._started_at)
        if self._bar is not None:
            self._bar.set_description_str(text)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
