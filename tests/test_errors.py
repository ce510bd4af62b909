"""Tracebacks as text: whole, and written by threads without disturbing what the rest of the program
parses.
"""

from __future__ import annotations

import ast
import gc
import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from optex_core.errors import format_traceback


def divide(n: int) -> float:
    return 1 + 1 / n


def failure() -> Exception:
    """An error with a cause, a context of that, and members."""
    try:
        try:
            try:
                divide(0)
            except ZeroDivisionError:
                {}["key"]
        except KeyError as error:
            raise ExceptionGroup("several", [error, ValueError("another")]) from error
    except ExceptionGroup as error:
        return error
    raise AssertionError("nothing was raised")


def in_thread(error: BaseException) -> str:
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(format_traceback(error)))
    thread.start()
    thread.join()
    return texts[0]


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip(" |")]


def test_nothing_is_lost() -> None:
    error = failure()
    text = format_traceback(error)
    for part in (
        "1 + 1 / n",
        "ZeroDivisionError: division",
        '{}["key"]',
        "KeyError: 'key'",
        "ExceptionGroup: several",
        "ValueError: another",
    ):
        assert part in text
    assert lines_of(in_thread(error)) == [line for line in lines_of(text) if line.strip(" |~^")], (
        "all but the carets"
    )
    assert "^" in text


def test_an_error_that_is_its_own_cause_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "first" in in_thread(first)


@contextmanager
def threads_change_at_every_collection() -> Iterator[None]:
    def yield_to_others(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(yield_to_others)
    try:
        yield
    finally:
        gc.callbacks.remove(yield_to_others)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_main_thread_may_parse_meanwhile(workers: int) -> None:
    """CPython 3.11: "SystemError: AST constructor recursion depth mismatch" in either thread where
    both parse.
    """
    error, done, faults = failure(), threading.Event(), []

    def write() -> None:
        try:
            while not done.is_set():
                format_traceback(error)
        except SystemError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write) for _ in range(workers)]
    with threads_change_at_every_collection():
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                ast.parse(inspect.getsource(inspect))
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not faults
