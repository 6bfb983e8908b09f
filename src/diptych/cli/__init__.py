"""diptych.cli."""
