"""The progress line: what it says, where it is written, and that no run needs it."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import optex_core as ox
from optex_core.runs.progress import LEGEND, format_progress


def minimize(**options):
    def fun(x):
        return float(x @ x), 2.0 * x

    run = dict(optimizer=ox.SGD(0.1), parallelism=3, strategy="verified", rng=0)
    return ox.minimize(fun, np.array([3.0, -4.0, 5.0]), **run | options)


def test_the_progress_line_says_what_a_person_asks(monkeypatch):
    text = format_progress(minimize(maxiter=4), 2.0)
    parts = ("iteration 4", "value ", "max|g| ", "steps ", "gradient prediction error ")
    for part in (*parts, "gradients/s"):
        assert part in text
        assert part.split()[0] in LEGEND
    monkeypatch.setattr("optex_core.runs.progress.LINE_INTERVAL", 0.0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    minimize(maxiter=2, progress=True)
    assert sys.stderr.getvalue().count("iteration ") == 3


def test_the_progress_line_is_rewritten_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    minimize(maxiter=2, progress=True)
    assert "iteration 2" in terminal.getvalue()


def test_a_result_is_made_only_for_a_line_that_is_due(monkeypatch):
    made, result = [], ox.OptEx.result
    monkeypatch.setattr(ox.OptEx, "result", lambda engine: (made.append(1), result(engine))[1])
    monkeypatch.setattr("sys.stderr", io.StringIO())
    minimize(maxiter=5, progress=True)
    assert len(made) == 1  # the one returned
    minimize(maxiter=5, callback=lambda r: None)
    assert len(made) == 1 + 5 + 1


class WriteOnly:
    """A console of some GUI."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Closed(io.StringIO):
    """A stream that a service has closed."""

    def isatty(self):
        raise ValueError("I/O operation on closed file")


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "stream", [None, WriteOnly(), Closed(), Full()], ids=lambda s: type(s).__name__
)
def test_progress_needs_no_standard_error(monkeypatch, stream):
    monkeypatch.setattr("optex_core.runs.progress.LINE_INTERVAL", 0.0)
    monkeypatch.setattr("sys.stderr", stream)
    result = minimize(maxiter=3, progress=True)
    monkeypatch.undo()
    assert result.nit == 3
    if isinstance(stream, WriteOnly):
        assert stream.text.count("iteration ") == 4
