"""diptych.data."""
