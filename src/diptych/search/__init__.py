"""diptych.search."""
