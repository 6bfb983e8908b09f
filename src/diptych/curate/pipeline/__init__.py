"""The curation as a whole: recipe, stages, the processes that run them, the data card."""
