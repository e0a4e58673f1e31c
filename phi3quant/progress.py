"""How long work reports where it is, without knowing who listens."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """Called when some of a stage's work is done."""

    def __call__(self, done: int = 1, note: str = "") -> None:
        """Count ``done`` more steps; ``note`` is shown beside the progress."""


class Progress(Protocol):
    """Something that shows stages of work; the command line's is tqdm."""

    def __call__(self, title: str, total: int, /) -> AbstractContextManager[Step]:
        """Begin a stage of ``total`` steps."""


@contextmanager
def silent(_title: str, _total: int) -> Iterator[Step]:
    """Report to nobody."""

    def step(done: int = 1, note: str = "") -> None:
        pass

    yield step
