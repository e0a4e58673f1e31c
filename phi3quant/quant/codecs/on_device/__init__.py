"""Codecs as tensor operations, which run on any device of torch.

The compiled kernels next to this package do the same on the CPU. Formulas and rounding are theirs;
only the order of sums differs, so that codes differ where two candidates are almost equally good.
"""
