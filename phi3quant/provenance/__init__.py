"""Manifests: origin of an artifact, and a check that its bytes are unchanged."""
