"""From an encoded image to pixels: limits, decoding, orientation, resizing, transforms."""
