"""Work that several runs of one model share: opening, hashing, tokenizing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters import open_weights
from phi3quant.errors import CheckpointError
from phi3quant.provenance import manifest
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import CalibrationWindows, calibration_windows
from phi3quant.run.written_windows import Writing
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Located
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.tokenizer import load_tokenizer

_Stamps = tuple[tuple[Path, tuple[int, int]], ...]


class SharedWork:
    """The last model with its calibration windows, and the hashes of all models so far.

    A result is used again as long as none of the model's files changes. A sweep passes one object
    to all its runs; a single run has its own.
    """

    def __init__(self) -> None:
        self._opened: tuple[OpenedModel[Checkpoint], _Stamps] | None = None
        self._described: dict[tuple[Located, _Stamps], dict[str, Any]] = {}
        self._windows: dict[tuple[Calibration, str, int | None], CalibrationWindows] = {}

    def opened(self, located: Located) -> OpenedModel[Checkpoint]:
        """Open a checkpoint in full precision.

        Raises:
            Phi3QuantError: it can't be opened, or it is quantized already.
        """
        if self._opened is not None:
            before, stamps = self._opened
            if before.located == located and _stamps(files_of(before)) == stamps:
                return before
        opened = _open_plain(located)
        self._opened = opened, _stamps(files_of(opened))
        self._windows.clear()
        return opened

    def described(self, located: Located, files: Sequence[Path]) -> dict[str, Any]:
        """Name, revision and hashes of a source; see manifest.describe_source."""
        key = located, _stamps([*files, *manifest.adapter_files(located)])
        if key not in self._described:
            self._described[key] = manifest.describe_source(located, files)
        return self._described[key]

    def windows(
        self,
        source: OpenedModel[Checkpoint],
        calibration: Calibration,
        writing: Writing,
        *,
        tuned: int | None = None,
    ) -> CalibrationWindows:
        """Calibration windows in the tokens of a model; see calibration_windows.

        Raises:
            Phi3QuantError: as calibration_windows.
        """
        if self._opened is None or self._opened[0] is not source:
            return calibration_windows(source, calibration, writing, tuned=tuned)
        key = calibration, str(writing.device), tuned
        if key not in self._windows:
            self._windows[key] = calibration_windows(source, calibration, writing, tuned=tuned)
        return self._windows[key]


def files_of(opened: OpenedModel[Checkpoint]) -> list[Path]:
    """Files that decide the results of a run: config, tokenizer, weights and adapters."""
    located = opened.located
    return [
        *manifest.source_files(located, opened.model.store.files),
        *manifest.adapter_files(located),
    ]


def _stamps(files: Sequence[Path]) -> _Stamps:
    return tuple(manifest.stamps(files).items())


def _open_plain(located: Located) -> OpenedModel[Checkpoint]:
    model = open_weights(located.path, located.adapters)
    if not isinstance(model, Checkpoint):
        raise CheckpointError(
            f"{located.path} is quantized already ({model.format}); use the original checkpoint"
        )
    return OpenedModel(located, model, {}, lambda: load_tokenizer(located.folder))
