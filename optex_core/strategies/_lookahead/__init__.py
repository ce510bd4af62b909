"""Parts of the strategy `lookahead`: coordinates of the known space, models in it, paths, searches."""
