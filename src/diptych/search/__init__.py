"""Ask an embedded source for its nearest images."""
