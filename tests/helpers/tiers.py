"""Which tests the fast tier leaves out: those that take seconds and whose promise is touched by a
quicker test. The markers of both tiers are set from this table alone.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

#: Patterns of ids below tests/. Beside every one stands what keeps its promise in the fast tier.
SLOW = ()


def is_slow(nodeid: str) -> bool:
    """Whether a test is of the slow tier."""
    name = nodeid.removeprefix("tests/")
    return any(fnmatchcase(name, pattern) for pattern in SLOW)
