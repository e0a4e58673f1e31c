"""Reports on quantized models: facts and scores, figures, and one HTML page."""
