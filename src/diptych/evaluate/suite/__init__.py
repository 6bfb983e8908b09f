"""Suites: many tasks with their protocols, resumable, compared and stored."""
