"""Sizes, memory and speed limits of a model that needn't exist yet; nothing here loads torch."""
