"""diptych.evaluate."""
