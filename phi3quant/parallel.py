"""Work on rows of a matrix in several threads, for kernels that release the GIL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Weights in a slice: enough to make the cost of handing it out negligible.
_CHUNK_WEIGHTS = 1 << 18


def over_rows(rows: int, columns: int, work: Callable[[slice], None], *, multiple: int = 1) -> None:
    """Call ``work`` for slices that cover all rows, on torch's number of threads.

    Args:
        rows: rows of the matrix.
        columns: columns of the matrix.
        work: receives a slice of rows; called from several threads at the same time.
        multiple: number that divides the rows of every slice except the last one.

    Raises:
        Exception: whatever ``work`` raises first.
    """
    height = multiple * max(1, _CHUNK_WEIGHTS // (columns * multiple))
    parts = [slice(start, min(start + height, rows)) for start in range(0, rows, height)]
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        # Reading the results raises the first error.
        list(pool.map(work, parts))
