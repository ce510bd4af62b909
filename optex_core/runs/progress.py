"""Live progress of a run: one line on standard error, or the user's callable."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import callable_, short_repr
from optex_core.errors import ArgumentTypeError

if TYPE_CHECKING:
    from optex_core.engine.result import Result

logger = logging.getLogger("optex_core")

#: Seconds between lines where standard error is not a terminal.
LINE_INTERVAL = 5.0
#: What the parts of the line mean, for ``--help``.
LEGEND = """\
iteration   updates of the parameters so far
value       of the objective there; max|g| is the largest entry of the gradient
steps a/w   optimizer steps taken in the last iteration, of those predicted (the window)
gradient prediction error
            |predicted gradient - gradient| / |gradient|, mean over the predicted points of the
            last iteration: 0 is exact, from 1 on the prediction says nothing
gradients/s gradients evaluated per second since the start, failed and repeated ones included"""


def format_progress(result: Result, seconds: float) -> str:
    """One line about a run that has taken `seconds` so far; `LEGEND` explains it."""
    history = result.history
    norm = float(abs(result.jac).max())
    parts = [f"iteration {result.nit}", f"value {result.fun:.6g}", f"max|g| {norm:.3g}"]
    if len(history):
        last = history[-1]
        error = last.prediction_error
        parts.append(f"steps {last.accepted}/{last.window}")
        parts.append(f"gradient prediction error {'-' if math.isnan(error) else f'{error:.2g}'}")
    parts.append(f"{result.njev / max(seconds, 1e-9):.3g} gradients/s")
    return "  ".join(parts)


class Progress:
    """What ``progress=`` asks for, as a context.

    True: ``text(result, seconds)`` on standard error, in place by tqdm on a terminal, else
    written every 5 seconds. A callable gets every intermediate result.
    """

    def __init__(
        self,
        progress: bool | Callable[[object], object],
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
        if self.active and self.callback is None:
            self._write(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._write(self._bar.close)

    def _open(self) -> None:
        is_terminal = getattr(sys.stderr, "isatty", None)
        if is_terminal is not None and is_terminal():
            try:
                from tqdm import tqdm
            except ImportError:  # lines are then written every few seconds
                return
            self._bar = tqdm(total=0, bar_format="{desc}", file=sys.stderr)

    def due(self) -> bool:
        """True if `update` is wanted now: a result costs a copy of x and of the gradient."""
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
        write = _write_line if self._bar is None else self._bar.set_description_str
        self._write(lambda: write(text))

    def _write(self, show: Callable[[], object]) -> None:
        """Call what writes to standard error; one that cannot be written ends no run.

        It is None in services and behind ``2>&-``, and may be closed while the run goes on.
        """
        try:
            show()
        except (AttributeError, OSError, ValueError) as error:
            logger.info("no progress line: standard error cannot be written (%s)", error)
            self.active, self._bar = False, None


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    if hasattr(sys.stderr, "flush"):  # some consoles have none
        sys.stderr.flush()
