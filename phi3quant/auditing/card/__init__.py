"""Model cards: front matter, sections, and the numbers that they state."""
