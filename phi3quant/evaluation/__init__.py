"""Perplexity, divergence and paired statistics of models as read back from disk."""
