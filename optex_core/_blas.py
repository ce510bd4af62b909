"""One BLAS thread for small products.

On shared cores the default thread pool made a round ten times slower (227 ms against 23 ms at T0 = 30, d = 300).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

#: Below so many numbers in the history no BLAS call of ours is large enough to be threaded, and the switch (20 to 60 us) would only cost.
THREADED_FROM = 2048


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController  # 2 ms to look at the loaded libraries: once, on use

    return ThreadpoolController().select(user_api="blas")


def single_threaded(numbers: int) -> AbstractContextManager[Any]:
    """A context in which BLAS uses one thread, for work on a history of `numbers` entries; nothing for the smallest."""
    if numbers < THREADED_FROM:
        return nullcontext()
    limited: AbstractContextManager[Any] = _controller().limit(limits=1)
    return limited
