"""A new Python that finds what this one finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def python(
    *words: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python words ...`` to its end, with what it says as text."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_python(code: str, *arguments: str | Path, **environment: str) -> str:
    """What `code` prints in a new interpreter, which has to end without an error."""
    done = python("-c", code, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
