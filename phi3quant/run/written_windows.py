"""Windows of text that a model has written, read from the cache folder where they are kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from calib import windows
from calib.prompts import Prompts, prompts_of
from calib.written_text import TEMPERATURE, written_windows
from converters.stop_tokens import stop_tokens
from phi3quant.errors import CorpusError
from phi3quant.model.device import CPU, computing_on
from phi3quant.model.precision import product_dtype
from phi3quant.progress import Progress, silent
from phi3quant.provenance import manifest
from phi3quant.run import kept_windows
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import require_rows

# A model's file is recognized by pieces from its whole length, since its times may be artificial.
_PIECES, _PIECE = 64, 4096

_LATEST: dict[str, torch.Tensor] = {}
"""The latest windows by their key, for runs whose cache folder can't be written."""


@dataclass(frozen=True)
class Writing:
    """Conditions under which a model writes text.

    Attributes:
        device: device that computes.
        max_memory: limit on bytes of its memory; None for the default.
        progress: display of the tokens.
    """

    device: torch.device = CPU
    max_memory: int | None = None
    progress: Progress = silent


def kept_or_written(
    source: OpenedModel[StoredWeights],
    shape: tuple[int, int],
    seed: int,
    writing: Writing,
) -> torch.Tensor:
    """Windows of text by a model; the same call reads them from the cache folder.

    Args:
        source: the model.
        shape: number of windows, and tokens per window.
        seed: sampling seed.
        writing: device and memory.

    Returns:
        int64 [windows, length].

    Raises:
        CorpusError: the windows are too short.
        CheckpointError: the model can't be read, or its predictions aren't finite.
        TokenizerError: the tokenizer doesn't fit the model.
        MemoryLimitError: a GPU's memory is full.
    """
    if shape[1] < 2:
        raise CorpusError(f"windows of {shape[1]} tokens are too short; at least 2 are needed")
    tokenizer, rows = source.tokenizer, source.config.vocab_size
    prompts = prompts_of(tokenizer, stop_tokens(source), shape[1])
    require_rows(tokenizer, prompts.ids, rows)
    key = _key(source, prompts, shape, seed, writing.device)
    ids = _LATEST.get(key)
    if ids is not None:
        return ids
    ids = kept_windows.read(key, shape, rows)
    if ids is None:
        known = frozenset(tokenizer.encoder.vocabulary().values())
        with (
            computing_on(writing.device, writing.max_memory),
            writing.progress("writing text", shape[0] * shape[1]) as step,
        ):
            ids = written_windows(
                *(source.model, prompts, known, shape, seed, step),
                device=writing.device,
                max_memory=writing.max_memory,
            )
        kept_windows.keep(key, ids)
    _LATEST.clear()
    _LATEST[key] = ids
    return ids


def describe(ids: torch.Tensor) -> dict[str, Any]:
    """Written windows as JSON values, for manifests."""
    return {
        "text": "self",
        "text_sha256": windows.digest(ids),
        "written_windows": len(ids),
        "temperature": TEMPERATURE,
    }


def _key(
    source: OpenedModel[StoredWeights],
    prompts: Prompts,
    shape: tuple[int, int],
    seed: int,
    device: torch.device,
) -> str:
    """SHA-256 of everything that decides the text."""
    located = source.located
    files = [*source.model.files, *manifest.adapter_files(located)]
    decisive: Mapping[str, Any] = {
        "files": [(str(path.resolve()), *_stamp(path)) for path in files],
        "adapters": [(each.name, each.weight) for each in located.adapters],
        "vocabulary": source.tokenizer.digest,
        "prompts": {**asdict(prompts), "stops": sorted(prompts.stops)},
        "shape": shape,
        "seed": seed,
        "temperature": TEMPERATURE,
        "device": (device.type, str(product_dtype(device))),
        "tools": manifest.describe_tools(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, str]:
    """Size, modification time in ns, and SHA-256 of pieces of a file."""
    stat = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(number * max(0, stat.st_size - _PIECE) // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return stat.st_size, stat.st_mtime_ns, digest.hexdigest()
