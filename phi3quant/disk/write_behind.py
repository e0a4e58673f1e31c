"""Background thread for writing, so that a tensor is written while the next ones are computed."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# Large codes and small scales alternate; the queue is long enough that submitting scales doesn't
# wait for the codes before them.
WAITING_BYTES = 64 << 20
"""Limit of the data that waits to be written, in bytes."""


class WriteBehind:
    """Queue of writes that one background thread does in order."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()

    def submit(self, work: Callable[[], None], nbytes: int) -> None:
        """Queue ``work``, after waiting until the queue has room for its data.

        Args:
            work: called on the background thread.
            nbytes: size of the data that stays in memory until then.

        Raises:
            Exception: any exception of earlier work.
        """
        while self._waiting and (self._waiting[0][0].done() or not self._has_room(nbytes)):
            self._settle()
        self._waiting.append((self._disk.submit(work), nbytes))

    def finish(self, *, whole: bool) -> None:
        """End the thread.

        Args:
            whole: do all queued work first; otherwise only the work that has started.

        Raises:
            Exception: any exception of the work, if ``whole``.
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
