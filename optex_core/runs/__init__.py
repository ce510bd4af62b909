"""One run on the clock, on disk and on screen."""
