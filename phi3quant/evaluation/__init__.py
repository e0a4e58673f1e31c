"""Perplexity, divergence and paired statistics of models that are read back from disk."""
