"""Readers of evaluation sets in the forms in which their authors publish them."""
