"""Comparisons with other tools: quality (benchmarks.quality) and speed (benchmarks.speed)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Root folder of the project; benchmarks run from a checkout."""
