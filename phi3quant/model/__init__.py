"""Phi-3 as data and functions: configuration, tensor names and shapes, the forward pass."""
