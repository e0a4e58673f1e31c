"""Sweeps: many recipes on several models, with a cache by content."""
