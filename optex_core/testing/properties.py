"""Properties over many examples, drawn by Hypothesis, with the smallest failing one in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from optex_core.errors import MissingExtraError
from optex_core.testing.check_suite import CheckFailed, CheckSkipped, describe_error


def for_all(
    body: Callable[..., None], *, examples: int | None = None, **strategies: object
) -> None:
    """Call ``body(**drawn)`` with examples from `strategies`, always the same ones; a failure is
    shrunk and reported with its example.

    Parameters
    ----------
    body : callable
        Raises where the property does not hold.
    examples : int, optional
        How many are drawn; by default as many as the active profile of Hypothesis says (100 unless
        one was loaded). A number is a limit: a profile that asks for fewer draws fewer.
    **strategies
        Argument -> Hypothesis strategy.

    Raises
    ------
    CheckFailed
        With the smallest example that was found.
    MissingExtraError
        Hypothesis is not installed.

    Examples
    --------
    >>> from optex_core.testing import strategies as st
    >>> for_all(lambda x: None, x=st.vectors(d=3))
    """
    try:
        import hypothesis
    except ImportError as error:
        raise MissingExtraError.of("hypothesis", "testing", "checking properties") from error
    last: dict[str, object] = {}

    def run(**drawn: object) -> None:
        last.clear()
        last.update(drawn)
        body(**drawn)

    profile = hypothesis.settings().max_examples
    settings = hypothesis.settings(
        max_examples=profile if examples is None else min(examples, profile),
        derandomize=True,  # a red check is red again
        database=None,  # nothing is written beside the user's files
        deadline=None,  # the first example compiles
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        # Without the phase that explains, which runs a failing example a hundred times more.
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    try:
        settings(hypothesis.given(**strategies)(run))()
    except (CheckSkipped, MissingExtraError):
        raise
    except hypothesis.errors.Flaky as error:
        raise CheckFailed(
            f"it fails, and passes when the same example is tried again, so its "
            f"answers change from call to call\n{describe_example(last)}"
        ) from error
    except Exception as error:
        raise CheckFailed(f"{describe_error(error)}\n{describe_example(last)}") from error


def describe_example(example: dict[str, object]) -> str:
    """An example in lines that a person can read and paste."""
    lines = (f"{name} = {format_value(value)}" for name, value in example.items())
    return "smallest example: " + "\n                  ".join(lines)


def format_value(value: object) -> str:
    """A short form; arrays as ``np.array([...], dtype)``."""
    if isinstance(value, np.ndarray):
        if value.size > 24:
            return f"an array of shape {value.shape} and dtype {value.dtype}"
        text = np.array2string(value, separator=", ", threshold=100, floatmode="unique")
        return f"np.array({text}, np.{value.dtype})".replace("\n", "")
    text = repr(value)
    return text if len(text) <= 300 else text[:297] + "..."
