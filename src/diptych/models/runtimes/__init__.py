"""Exported models: their files, the runtimes that compute them, the choice among those."""
