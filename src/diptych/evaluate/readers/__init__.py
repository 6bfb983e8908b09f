"""Readers of evaluation sets, each a form in which people have them on disk."""
