"""Audits: a grade for a model's integrity over ten criteria, each with its evidence."""
