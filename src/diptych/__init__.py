"""diptych: the whole of CLIP in one house."""

__version__ = "0.1.0"
