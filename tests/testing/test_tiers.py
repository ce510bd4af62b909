"""The table of the slow tier names tests that exist."""

from __future__ import annotations

from pathlib import Path

from tiers import SLOW, is_slow


def test_every_pattern_names_a_test():
    for pattern in SLOW:
        file, _, name = pattern.partition("::")
        text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
        assert f"def {next(part for part in name.split('*') if part)}" in text, pattern


def test_patterns_are_matched_below_tests():
    one = "tests/bench/test_wallclock.py::test_a_small_benchmark"
    assert is_slow(one)
    assert not is_slow(one.replace("small", "large"))
