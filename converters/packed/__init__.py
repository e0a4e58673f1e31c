"""Packed checkpoints: safetensors folders with quantized matrices."""
