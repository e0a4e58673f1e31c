"""Finished output of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.source.locate import Located


@dataclass(frozen=True, repr=False)
class Artifacts:
    """Folders with the output of a run.

    Attributes:
        source: model that was converted.
        folders: folder of each format, by its name.
        calibration: text, hashes and number of windows; None without calibration.
        blocks: output errors of each block, and whether it fell back to RTN.
        tuning: divergences before and after tuning; None without it.
    """

    source: Located
    folders: Mapping[str, Path]
    calibration: Mapping[str, Any] | None
    blocks: Sequence[Mapping[str, Any]]
    tuning: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        folders = ", ".join(f"{name} in {folder}" for name, folder in self.folders.items())
        return f"<Artifacts of {self.source.name}: {folders}>"
