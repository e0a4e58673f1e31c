"""Predictions in full precision, kept on disk for all jobs of a model.

A safetensors file has the states, the windows and the description of the text. A JSON file next to
it has its hash.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from phi3quant.disk.hashed_file import describe_file
from phi3quant.disk.output import check_space, clear_os_errors, sync, write_json
from phi3quant.disk.untrusted_json import parse_json, read_json
from phi3quant.errors import InputError
from phi3quant.evaluation.evaluate import EvaluationText, full_precision
from phi3quant.evaluation.full_precision import FullPrecision
from phi3quant.model.device import find_device
from phi3quant.progress import Progress
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.opened_model import OpenedModel

_WEIGHTS, _RECORD = ".safetensors", ".json"
_DESCRIPTION = "description"


@dataclass(frozen=True)
class _Record:
    """Size and hash of a file."""

    sha256: str
    bytes: int


def files_of_original(place: Path) -> tuple[Path, Path]:
    """Files of kept predictions; the last one is written last."""
    return place.with_suffix(_WEIGHTS), place.with_suffix(_RECORD)


def original(
    place: Path,
    opened: OpenedModel[Checkpoint],
    text: EvaluationText,
    progress: Progress,
    device: str,
) -> FullPrecision:
    """Predictions of a model, read from ``place`` or computed and kept there.

    Args:
        place: path without a suffix; its name is the key of the predictions.
        opened: the model.
        text: text to score on.
        progress: display of the blocks.
        device: device to compute on.

    Raises:
        Phi3QuantError: the text or the model can't be used, or the files can't be written.
    """
    kept = _read(place, opened.config.hidden_size)
    if kept is None:
        _write(place, full_precision(opened, text, progress, find_device(device)))
        kept = _read(place, opened.config.hidden_size)
    if kept is None:
        raise InputError(f"{place}{_WEIGHTS} can't be read back; check the disk")
    return kept


def _write(place: Path, computed: FullPrecision) -> None:
    weights = place.with_suffix(_WEIGHTS)
    partial = place.with_name(f".{weights.name}.phi3quant-partial")
    check_space(weights, computed.states.nbytes)
    tensors = {"states": computed.states, "windows": computed.windows}
    description = json.dumps(dict(computed.description), allow_nan=False)
    with clear_os_errors(weights):
        save_file(tensors, partial, {_DESCRIPTION: description})
        sync(partial)
        described = describe_file(partial)
        partial.replace(weights)
    write_json(place.with_suffix(_RECORD), described)


def _read(place: Path, hidden: int) -> FullPrecision | None:
    """Kept predictions; None if they are missing or damaged.

    The states are mapped, so that jobs on one machine share them.
    """
    weights = place.with_suffix(_WEIGHTS)
    try:
        record = read_json(place.with_suffix(_RECORD), _Record)
        if describe_file(weights) != {"bytes": record.bytes, "sha256": record.sha256}:
            return None
        with safe_open(weights, framework="pt") as file:
            states, windows = file.get_tensor("states"), file.get_tensor("windows")
            stated = (file.metadata() or {}).get(_DESCRIPTION, "")
        description = parse_json(stated, dict[str, Any], where=str(weights))
    except (InputError, OSError, SafetensorError):
        return None
    tokens = windows.shape[0] * (windows.shape[1] - 1) if windows.dim() == 2 else -1
    fits = windows.dtype == torch.int64 and states.dtype == torch.float32
    if not fits or states.shape != (tokens, hidden):
        return None
    return FullPrecision(windows, description, states)
