"""Perplexity and bits per weight of phi3quant and its peers: same weights, tokens, scorer."""
