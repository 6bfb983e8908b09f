"""Images and texts in, rows of unit length out."""
