"""Time and memory of phi3quant and its peers, in alternation on the same model and machine."""
