"""What every refusal looks like."""

from __future__ import annotations

from optex_core.errors import OptexError


def assert_one_sentence(error):
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    assert isinstance(error, OptexError)
