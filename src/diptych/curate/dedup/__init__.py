"""Signatures of captions and blocked images."""
