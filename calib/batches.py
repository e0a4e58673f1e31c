"""Size of the batches that calibration windows pass through a block in."""

BATCH_TOKENS = 4096
"""Tokens at once: enough for full speed, few enough for caches. Memory estimates count with it."""


def windows_per_batch(length: int) -> int:
    """Windows of ``length`` tokens in a batch; the last batch may have fewer."""
    return max(1, BATCH_TOKENS // length)
