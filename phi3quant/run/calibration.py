"""Choice of the text that a method calibrates on."""

from dataclasses import dataclass
from pathlib import Path

from calib.mixture import text_shares
from phi3quant.errors import CorpusError, require


@dataclass(frozen=True)
class Calibration:
    """Text that a method calibrates on.

    Attributes:
        source: file, folder or bundled corpus (see calib.corpus.load_corpus), or ``self`` for text
            that the model writes; None for the bundled corpus that suits the model. A tuple is a
            mixture; a string in it may end with a share, such as ``"chats.jsonl=2"``.
        field: name of the field that holds the text of a record.
        samples: limit on the number of windows.
        length: tokens in a window.
        seed: sampling seed of the windows.

    Raises:
        CorpusError: a value has a wrong type, a share isn't a positive number, or a text is listed
            twice.
    """

    source: str | Path | tuple[str | Path, ...] | None = None
    field: str | None = None
    samples: int = 64
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        require(CorpusError, "source", self.source, str, Path, tuple, list, None)
        require(CorpusError, "field", self.field, str, None)
        for name in ("samples", "length", "seed"):
            require(CorpusError, name, getattr(self, name), int)
        for entry in self.sources:
            require(CorpusError, "source", entry, str, Path)
        text_shares(self.sources)
        if isinstance(self.source, tuple | list):
            # One text is the same calibration, as an element or alone.
            entries = self.sources if len(self.sources) > 1 else next(iter(self.sources), None)
            object.__setattr__(self, "source", entries)

    @property
    def sources(self) -> tuple[str | Path, ...]:
        """Texts with their shares; empty for the bundled corpus that suits the model."""
        if self.source is None:
            return ()
        return (self.source,) if isinstance(self.source, str | Path) else tuple(self.source)
