"""HTML pages: the report of a run and of a suite, data cards, plots."""
