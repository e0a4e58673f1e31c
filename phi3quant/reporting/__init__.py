"""A report on what came out of quantizing: gathered, scored, drawn, written as one page."""
