"""Writing on a thread of its own, so that a tensor is on its way while the next ones are made."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# Scales and codes come in turns, and a matrix's codes shouldn't be waited for as soon as its few
# scales follow.
WAITING_BYTES = 64 << 20
"""What may wait to be written."""


class WriteBehind:
    """Does work in the order in which it comes, while its data waits in memory."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()

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

    def finish(self, *, whole: bool) -> None:
        """Wait for all work, or unless it is to be ``whole``, for what is under way, and end.

        Raises:
            Exception: whatever the work raised, if it is to be whole.
        """
        try:
            while whole and self._waiting:
                self._settle()
        finally:
            self._disk.shutdown(cancel_futures=True)

    def _has_room(self, nbytes: int) -> bool:
        return sum(waiting for _, waiting in self._waiting) + nbytes <= WAITING_BYTES

    def _settle(self) -> None:
        self._waiting.popleft()[0].result()
