"""``python -m optex_core`` is ``optex-core``."""

from __future__ import annotations

# Worker processes that are spawned import this module again: without the guard each of them would
# be a command line.
if __name__ == "__main__":
    from optex_core.cli import main

    raise SystemExit(main())
