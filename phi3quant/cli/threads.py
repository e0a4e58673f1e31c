"""Threads that compute, and how they wait for each other."""

import os

import torch

from phi3quant.run.control_groups import processors


def use_threads(threads: int | None) -> None:
    """Set the number of threads of all matrix products.

    Args:
        threads: the number; None for OMP_NUM_THREADS or, where that isn't set, for the processors
            of this machine that the container may use.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        allowed = processors()
        threads = None if allowed is None else min(allowed, torch.get_num_threads())
    if threads is not None:
        torch.set_num_threads(threads)
