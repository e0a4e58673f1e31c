"""Rows of a matrix on several threads, for kernels that release the interpreter's lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Weights that are handed out at once: enough that handing out costs nothing beside them.
_CHUNK_WEIGHTS = 1 << 18


def over_rows(rows: int, columns: int, work: Callable[[slice], None], *, multiple: int = 1) -> None:
    """Call ``work`` for slices of rows that together make all, on torch's number of threads.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        work: gets a slice of rows; slices may be worked on at the same time.
        multiple: slices hold a multiple of so many rows, but for the last.

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
        # Reading the results raises what went wrong.
        list(pool.map(work, parts))
