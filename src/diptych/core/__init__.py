"""diptych.core."""
