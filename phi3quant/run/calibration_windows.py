"""Calibration windows: text that was tokenized, cut and sampled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calib import windows
from calib.corpus import Corpus, load_corpus, render, suitable
from phi3quant.errors import CorpusError
from phi3quant.run.recipe import Calibration
from phi3quant.source.tokenizer import Tokenizer, require_rows


@dataclass(frozen=True)
class CalibrationWindows:
    """Windows of calibration text.

    Attributes:
        ids: int64 [windows, length].
        description: text, hashes and number of windows, for manifests.
    """

    ids: torch.Tensor
    description: Mapping[str, Any]


def calibration_windows(
    tokenizer: Tokenizer, vocab_size: int, calibration: Calibration
) -> CalibrationWindows:
    """Sample the windows that a method calibrates on.

    Args:
        tokenizer: tokenizer of the model.
        vocab_size: rows of the model's embedding.
        calibration: text, number and length of the windows, seed.

    Raises:
        CorpusError: the text can't be used.
        TokenizerError: the text has tokens without a row in the embedding.
    """
    if calibration.samples < 1:
        raise CorpusError(f"{calibration.samples} calibration windows are too few; use 1 or more")
    source = suitable(tokenizer) if calibration.source is None else calibration.source
    corpus, cut = _cut(source, tokenizer, calibration)
    sample = windows.sample_windows(cut, calibration.samples, calibration.seed)
    ids = windows.shuffled_by_content(sample)
    require_rows(tokenizer, ids.numpy(), vocab_size)
    return CalibrationWindows(
        ids,
        {
            **corpus.as_json(),
            "windows": len(ids),
            "window_tokens": calibration.length,
            "seed": calibration.seed,
            "tokens_sha256": windows.digest(ids),
        },
    )


def sources_of(tokenizer: Tokenizer, calibration: Calibration) -> dict[str | Path, bool]:
    """Texts to tune on: the calibration's, and the bundled one, which only judges (True)."""
    bundled = suitable(tokenizer)
    source = bundled if calibration.source is None else calibration.source
    return {source: False, bundled: bundled != source}


def every_window(
    source: str | Path, tokenizer: Tokenizer, vocab_size: int, calibration: Calibration
) -> tuple[str, torch.Tensor]:
    """Name of a text, and all its windows, int64 [windows, length], in the order of their hashes.

    Raises:
        CorpusError: the text can't be used.
        TokenizerError: the text has tokens without a row in the embedding.
    """
    corpus, cut = _cut(source, tokenizer, calibration)
    ids = windows.shuffled_by_content(cut)
    require_rows(tokenizer, ids.numpy(), vocab_size)
    return corpus.name, ids


def _cut(
    source: str | Path, tokenizer: Tokenizer, calibration: Calibration
) -> tuple[Corpus, torch.Tensor]:
    corpus = load_corpus(source, "calibration", calibration.field)
    stream = tokenizer.encode_long(render(corpus, tokenizer))
    return corpus, windows.cut_windows(stream, calibration.length, f"the calibration text {source}")
