"""Durable files: atomic writes, locks, what users and others wrote, read with limits."""
