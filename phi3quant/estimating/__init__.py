"""Estimates of size, memory and speed for models that need not exist yet, without loading torch."""
