"""Progress of long work: stages, steps, and the bars that Python users see."""

import builtins
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tqdm.auto import tqdm


class Step(Protocol):
    """Callback for finished steps of a stage."""

    def __call__(self, done: int = 1, note: str = "") -> None:
        """Count ``done`` more steps; ``note`` is shown next to the progress."""


class Progress(Protocol):
    """Display of stages of work."""

    def __call__(self, title: str, total: int, /) -> AbstractContextManager[Step]:
        """Begin a stage of ``total`` steps."""


@contextmanager
def silent(_title: str, _total: int) -> Iterator[Step]:
    """Show nothing."""

    def step(done: int = 1, note: str = "") -> None:
        pass

    yield step


@contextmanager
def bars(title: str, total: int) -> Iterator[Step]:
    """Show a tqdm bar in a terminal or a notebook, and nothing elsewhere."""
    # tqdm asks whether the stream is a terminal, which a notebook's is not.
    hidden = False if _in_notebook() else None
    with tqdm(total=total, desc=title, unit="step", disable=hidden) as bar:

        def step(done: int = 1, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(done)

        yield step


def _in_notebook() -> bool:
    # IPython adds this function to builtins.
    shell = getattr(builtins, "get_ipython", None)
    return shell is not None and type(shell()).__name__ == "ZMQInteractiveShell"
