"""Regression checks for CI: baselines, gates on the difference from them, comparisons.

Entry points are ``check.py``, ``baselines.py`` and ``comparison.py``. The rule is in ``gate.py``,
the recorded data in ``baseline.py``, reports for other programs in ``gate_report.py``.
"""
