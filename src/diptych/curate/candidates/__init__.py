"""Candidate pairs from tables and crawls, and the filters that they pass."""
