"""Work of the CPU next to that of a GPU: blocks are read ahead and written behind."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from phi3quant.errors import DamagedError
from phi3quant.model.architecture import Block
from phi3quant.source.checkpoint import Checkpoint

Later = Callable[[Callable[[], None]], None]
"""Does a piece of work after the pieces before it, possibly on another thread."""


@dataclass
class BlockReader:
    """Reader of a checkpoint's blocks for a device.

    With a thread, the next block is read meanwhile, in its stored types; for a CUDA GPU into
    page-locked memory.

    Attributes:
        checkpoint: source.
        device: device of the tensors.
        pool: thread that reads ahead; None to read a block when it is needed.
    """

    checkpoint: Checkpoint
    device: torch.device
    pool: ThreadPoolExecutor | None = None
    _ahead: dict[int, Future[Block]] = field(default_factory=dict)

    def full(self, index: int) -> Block:
        """FP32 tensors of a block on the device.

        Raises:
            DamagedError: a value is NaN or infinite.
        """
        if self.pool is None:
            return self.checkpoint.block(index)
        block = {key: tensor.float() for key, tensor in self.stored(index).items()}
        if not torch.stack([torch.isfinite(each).all() for each in block.values()]).all():
            # Raises an error with the tensor, its file and the position of the bad value.
            self.checkpoint.block(index)
            raise DamagedError(f"block {index} holds NaN or infinity")
        return block

    def stored(self, index: int) -> Block:
        """Tensors of a block on the device, matrices in their stored dtype and not checked."""
        if self.pool is None:
            return self.checkpoint.stored_block(index)
        locked = self._ahead.pop(index, None)
        block = self._locked(index) if locked is None else locked.result()
        if index + 1 < self.checkpoint.config.num_hidden_layers:
            self._ahead[index + 1] = self.pool.submit(self._locked, index + 1)
        return {key: value.to(self.device, non_blocking=True) for key, value in block.items()}

    def _locked(self, index: int) -> Block:
        block = self.checkpoint.stored_block(index)
        if self.device.type != "cuda":
            return block
        return {key: tensor.pin_memory() for key, tensor in block.items()}


@contextmanager
def block_reader(
    checkpoint: Checkpoint, device: torch.device, *, ahead: bool
) -> Iterator[BlockReader]:
    """Open a reader of a checkpoint's blocks for a device; ``ahead``: on a thread of its own."""
    if not ahead:
        yield BlockReader(checkpoint, device)
        return
    with ThreadPoolExecutor(1) as pool:
        yield BlockReader(checkpoint, device, pool)


@contextmanager
def behind(*, overlapping: bool) -> Iterator[Later]:
    """Do work on a thread of its own, at most one piece at a time; or at once.

    All work is done when the context ends, also after an exception in the body. An error of a piece
    is raised when the next one is handed over, or at the end.
    """
    if not overlapping:
        yield lambda work: work()
        return
    with ThreadPoolExecutor(1) as pool:
        pending: Future[None] | None = None

        def later(work: Callable[[], None]) -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = pool.submit(work)

        yield later
        if pending is not None:
            pending.result()
