"""Conduct of a run: resuming, memory, verification; nothing that changes a weight."""

from collections.abc import Callable
from dataclasses import dataclass

from phi3quant.run.draft import Judge


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out; nothing here changes a weight.

    Attributes:
        resume: go on after the blocks that an earlier run for the same output finished.
        max_memory: limit on resident bytes; None: the memory that is available.
        say: receives lines for the user.
        judge: scores the result before it is published; None: it is not verified.
    """

    resume: bool = False
    max_memory: int | None = None
    say: Callable[[str], None] = lambda _line: None
    judge: Judge | None = None
