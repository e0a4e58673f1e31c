"""Quantization: schemes, codes, codecs, and the methods that choose codes."""
