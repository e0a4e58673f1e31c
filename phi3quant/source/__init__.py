"""Models and tokenizers as people bring them: located, opened, checked."""
