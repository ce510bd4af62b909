"""Reference implementations: every formula once, plainly."""
