"""Size of the batches that calibration windows pass through a block in."""

BATCH_TOKENS = 4096
"""Tokens at once: enough for full speed, few enough for caches. Memory estimates count with it."""
