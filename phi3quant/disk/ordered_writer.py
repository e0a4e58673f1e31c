"""Announced parts of an output, written in their order on a thread of its own.

Every format's writer is built on this: what comes out of order is refused, a bounded amount of data
waits to be written while the next tensors are computed, and there is one way to end.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

# Scales and codes come in turns, and a matrix's codes shouldn't be waited for as soon as its few
# scales follow.
WAITING_BYTES = 64 << 20
"""Bytes that may wait to be written."""


class Completable(Protocol):
    """An output that is either completed or abandoned."""

    def complete(self) -> None:
        """Finish the output.

        Raises:
            ValueError: an announced part is missing.
            Exception: an error of earlier work.
        """

    def abandon(self) -> None:
        """Drop what still waits, and close the files."""


W = TypeVar("W", bound=Completable)


@contextmanager
def completed(writer: W) -> Iterator[W]:
    """Complete ``writer`` when the block ends, or abandon it if the block raises."""
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.complete()


class OrderedWriter:
    """Queue of work on announced parts; the work is done in order, on one other thread.

    Args:
        names: of the parts, in the order in which they are going to come.
        close: closes the files, whatever happened before.
    """

    def __init__(self, names: Iterable[str], close: Callable[[], None]) -> None:
        self._announced = deque(names)
        self._close = close
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()

    def expect(self, name: str) -> None:
        """Count a part as come.

        Raises:
            ValueError: it isn't the next one that was announced.
        """
        if not self._announced:
            raise ValueError(f"{name} was not announced")
        if self._announced[0] != name:
            raise ValueError(f"expected {self._announced[0]}, got {name}")
        self._announced.popleft()

    def submit(self, work: Callable[[], None], nbytes: int) -> None:
        """Have ``work`` done, once there is room for its data to wait.

        Args:
            work: called on the other thread.
            nbytes: that stay in memory until then.

        Raises:
            Exception: an error of earlier work.
        """
        while self._waiting and (self._waiting[0][0].done() or not self._has_room(nbytes)):
            self._settle()
        self._waiting.append((self._thread.submit(work), nbytes))

    def complete(self) -> None:
        """See Completable."""
        try:
            while self._waiting:
                self._settle()
        finally:
            self.abandon()
        if self._announced:
            raise ValueError(f"{self._announced[0]} was never written")

    def abandon(self) -> None:
        """See Completable."""
        try:
            self._thread.shutdown(cancel_futures=True)
        finally:
            self._close()

    def _has_room(self, nbytes: int) -> bool:
        return sum(waiting for _, waiting in self._waiting) + nbytes <= WAITING_BYTES

    def _settle(self) -> None:
        self._waiting.popleft()[0].result()
