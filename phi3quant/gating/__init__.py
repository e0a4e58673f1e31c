"""Regression checks for CI: baselines, the gates that hold models against them, comparisons.

``check.py`` and ``comparison.py`` are the entrances; ``gate.py`` has the rule, ``baseline.py`` what
is remembered, ``gate_report.py`` what others read.
"""
