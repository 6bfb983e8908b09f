"""Shard sets: tars with an index and a manifest, and how they are written, read and edited."""
