"""Writing on a thread of its own, so that a tensor is on its way while the next ones are made."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

# What may wait to be written. Scales and codes come in turns, and a matrix's codes shouldn't be
# waited for as soon as its few scales follow.
_WAITING_BYTES = 64 << 20


class WriteBehind:
    """Does work in the order in which it comes, while its data waits in memory.

    As a context it waits for all of it at the end; after an error, for what is under way.
    """

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._settle()
        finally:
            self._disk.shutdown(cancel_futures=True)

    def submit(self, work: Callable[[], None], nbytes: int) -> None:
        """Have ``work`` done, once there is room for its data to wait.

        Args:
            work: called on the other thread.
            nbytes: that stay in memory until then.

        Raises:
            Exception: whatever earlier work raised.
        """
        while self._waiting and (self._waiting[0][0].done() or not self._has_room(nbytes)):
            self._settle()
        self._waiting.append((self._disk.submit(work), nbytes))

    def _has_room(self, nbytes: int) -> bool:
        return sum(waiting for _, waiting in self._waiting) + nbytes <= _WAITING_BYTES

    def _settle(self) -> None:
        self._waiting.popleft()[0].result()
