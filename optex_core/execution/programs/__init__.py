"""External programs: runner and supervisor."""
