"""Manifests: where an artifact came from, and whether its bytes are still the same."""
