"""Mutated files for every reader of what comes from outside; see ``make fuzz``."""
