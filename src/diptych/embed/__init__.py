"""diptych.embed."""
