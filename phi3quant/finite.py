"""Check of tensors for NaN and infinity, without masks of their size."""

import torch

from phi3quant.parallel import over_rows


def count_not_finite(tensor: torch.Tensor) -> int:
    """Number of values that are NaN or infinite.

    Args:
        tensor: floats of any shape.
    """
    if not tensor.numel():
        return 0
    rows = tensor.view(len(tensor), -1)
    counts: list[int] = []

    def count(part: slice) -> None:
        # In the common case one sum shows that all values are finite, without a mask. A sum may
        # overflow although all its terms are finite, hence the count.
        if not torch.isfinite(rows[part].sum(dtype=torch.float32)):
            counts.append(int((~torch.isfinite(rows[part])).sum()))

    over_rows(rows.shape[0], rows.shape[1], count)
    return sum(counts)
