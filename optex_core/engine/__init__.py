"""The ask/tell engine: no clock, thread or process."""
