"""Runs: recipe, preflight, the walk over all blocks, resuming, publishing."""
