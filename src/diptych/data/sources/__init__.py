"""Sources of pairs: every form in which images and captions lie on disk, behind one `open_source`."""
