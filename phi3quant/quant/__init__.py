"""Quantization: schemes, quantized tensors, codecs, and methods that choose codes."""
