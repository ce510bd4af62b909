"""What is known of the noise of evaluations: `auto` and `lookahead` keep it in their states."""

from __future__ import annotations

#: Not known; a repeated evaluation was the same; it was not.
UNKNOWN, EXACT, NOISY = 0, 1, 2
KNOWN_STATUSES = (UNKNOWN, EXACT, NOISY)
