"""diptych.models."""
