"""Other tools, each in its own environment and run by a driver script there."""
