"""Perplexity against bits a weight: ours and the peers', on the same weights, tokens and scorer."""
