"""diptych.train."""
