"""Calibration: text to windows of tokens, windows to statistics of a block's inputs."""
