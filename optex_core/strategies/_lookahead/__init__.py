"""Parts of the strategy `lookahead`: coordinates of the known space, models, paths, searches."""
