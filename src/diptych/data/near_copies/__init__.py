"""Fingerprints of images, groups of near copies, overlap of two sets."""
