"""Tuning of a quantized model's scales and norms against the original model's predictions."""
