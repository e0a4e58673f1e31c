"""Output errors of single groups, to compare with the searches' own sums."""

import torch

from phi3quant.quant.gram import diagonal_blocks


def grouped_output_error(error: torch.Tensor, gram: torch.Tensor, width: int) -> torch.Tensor:
    """Output error of each group of ``width`` weights taken alone, FP32 [rows, in/width].

    Uses the blocks on the diagonal of ``gram``: correlations inside a group count, those between
    groups don't.
    """
    rows, columns = error.shape
    groups = columns // width
    blocks = diagonal_blocks(gram, width)
    parts = error.view(rows, groups, width).transpose(0, 1)
    return ((parts @ blocks) * parts).sum(dim=-1).T
