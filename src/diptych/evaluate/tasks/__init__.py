"""Evaluation sets: the registry of tasks, the readers of their files, labels."""
