"""Calibration: text to windows of tokens, and windows to statistics of a block's inputs."""
