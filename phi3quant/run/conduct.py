"""Conduct of a run: resuming, memory, verification; nothing that changes a weight."""

from collections.abc import Callable
from dataclasses import dataclass

from phi3quant.run.draft import Judge


@dataclass(frozen=True)
class Conduct:
    """Conduct of a run; nothing here changes a weight.

    Attributes:
        resume: whether to continue after the finished blocks of an earlier run for the same output.
        max_memory: limit on resident bytes; None for the available memory.
        say: receives lines for the user.
        judge: verification of the result before it is published; None to skip it.
    """

    resume: bool = False
    max_memory: int | None = None
    say: Callable[[str], None] = lambda _line: None
    judge: Judge | None = None
