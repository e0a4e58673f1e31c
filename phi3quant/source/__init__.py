"""Models and tokenizers as users provide them: located, opened, checked."""
