"""Compilation of the kernels that calibration needs in another process, while a first run starts.

Compiling is most of a short first run. The process compiles by calling the kernels on one group,
and passes the machine code on in numba's cache folder (kernel_cache.py). This file is also its
program. Kernels that are needed earlier, for plain rounding, are compiled faster by the run itself.
"""

import atexit
import os
import subprocess
import sys

import numpy as np

from phi3quant.quant.codecs import affine_compensation, affine_search, kernel_cache
from phi3quant.quant.codecs.lanes import F32, LANES

_WIDTH = 32
# Kernels that a run calls; those that they call in turn are part of them.
_NAMES = ("fit", "compensate")


def start() -> None:
    """Start compiling if the cache folder lacks a kernel and there is a second core."""
    folder = kernel_cache.folder()
    if folder is None or not sys.executable or _cores() < 2:
        return
    if all(any(folder.glob(f"*/*.{name}-*.nbi")) for name in _NAMES):
        return
    # Not ``-m``, which would import files of the current folder.
    paths = (str(kernel_cache.ROOT), os.environ.get("PYTHONPATH"))
    process = subprocess.Popen(  # noqa: S603 - this file
        [sys.executable, "-P", __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(process.terminate)
    kernel_cache.compilers.update(dict.fromkeys(_NAMES, process))


def compile_all() -> None:
    """Call the kernels with the types that phi3quant.quant.codecs.affine gives them."""
    search = (np.ones(1, F32), 15, affine_search.MIDDLE)
    grids = np.ones((LANES, 1), F32), np.ones((LANES, 1), F32)
    weights, errors = np.zeros((LANES, _WIDTH), F32), np.empty((LANES, _WIDTH), F32)
    metrics, factor = np.ones((1, _WIDTH, _WIDTH), F32), np.eye(_WIDTH, dtype=F32)
    # A strip is a part of the columns.
    codes = np.empty((LANES, 2 * _WIDTH), np.uint8)[:, :_WIDTH]
    affine_search.fit(weights, metrics, search, grids)
    affine_compensation.compensate(weights, factor, metrics, search, grids, codes, errors)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    compile_all()
