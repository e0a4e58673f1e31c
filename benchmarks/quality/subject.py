"""A model that is quantized, with its texts and what all rows on it share."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from benchmarks import ROOT
from calib import windows
from calib.corpus import load_corpus, render
from converters import open_tokenizer, open_weights
from phi3quant.disk.hashed_file import sha256
from phi3quant.evaluation.evaluate import EvaluationText, text_windows
from phi3quant.evaluation.perplexity import Comparison, score
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import logits
from phi3quant.model.predictor import PIECE_ROWS, CountSteps, Predictions, final_states
from phi3quant.model.weights import ModelWeights
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import Tokenizer

WORK = ROOT / "build" / "quality"
"""Artifacts, and what rows share."""

RESULTS = ROOT / "benchmarks" / "quality" / "results"
"""What was measured; committed, since a row takes up to an hour."""


@dataclass(frozen=True)
class Subject:
    """A model and its texts.

    Attributes:
        name: for people and of its folders under WORK and RESULTS.
        model: its folder.
        calib: the calibration text.
        texts: what is scored on, none of it from the calibration text.
        samples, seq_len: of the calibration windows.
    """

    name: str
    model: Path
    calib: str
    texts: tuple[EvaluationText, ...]
    samples: int
    seq_len: int

    @property
    def folder(self) -> Path:
        """Where its artifacts are."""
        return WORK / self.name

    @property
    def results(self) -> Path:
        """Where its results are."""
        return RESULTS / self.name

    @cached_property
    def opened(self) -> StoredWeights:
        """The model in full precision."""
        return open_weights(self.model)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return open_tokenizer(self.model)

    @cached_property
    def calibration(self) -> torch.Tensor:
        """The windows that phi3quant chooses by default, int64 [samples, seq_len]."""
        corpus = load_corpus(self.calib, "calibration")
        ids = self.tokenizer.encode(render(corpus, self.tokenizer))
        cut = windows.cut_windows(ids, self.seq_len, self.calib)
        return windows.sample_windows(cut, self.samples, seed=0)

    @cached_property
    def scored(self) -> tuple[tuple[torch.Tensor, dict[str, Any]], ...]:
        """Windows and description of each text."""
        found = [text_windows(text, self.tokenizer, self.opened.config) for text in self.texts]
        return tuple(found)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hashes of all that decides over every row: weights, calibration and texts."""
        return {
            "weights": [sha256(file) for file in self.opened.files],
            "calibration": windows.digest(self.calibration),
            "texts": [description["tokens_sha256"] for _, description in self.scored],
        }

    def write_calibration(self) -> tuple[Path, Path]:
        """Write the calibration windows for the peers; gives the files of ids and of text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ids, words = self.folder / "windows.npy", self.folder / "windows.txt"
        np.save(ids, self.calibration.numpy())
        texts = [self.tokenizer.decode(window.tolist()) for window in self.calibration]
        words.write_text("".join(texts), encoding="utf-8")
        return ids, words

    def compare(self, model: ModelWeights, number: int) -> Comparison:
        """Score a model on text ``number``, beside full precision."""
        cut, description = self.scored[number]
        kept = self.folder / f"states-{description['tokens_sha256'][:12]}.safetensors"
        if not kept.exists():
            states = final_states(self.opened, cut, lambda _steps: None)
            save_file({"states": states}, kept)
        reference = _Remembered(self.opened, load_file(kept)["states"])
        return score([reference, model], cut)[1]


@dataclass(frozen=True)
class _Remembered:
    """The model in full precision, whose blocks were run before; implements Predictor.

    Attributes:
        model: for its head.
        states: output of the last block, FP32 [windows, length, hidden].
    """

    model: StoredWeights
    states: torch.Tensor
    steps: int = 0

    @property
    def config(self) -> Phi3Config:
        """See Predictor."""
        return self.model.config

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """See Predictor; the windows are those of the states."""
        del windows, tell
        return self._log_probabilities

    def _log_probabilities(self) -> Iterator[torch.Tensor]:
        norm, head, epsilon = self.model.final_norm(), self.model.head(), self.config.rms_norm_eps
        for rows in torch.split(self.states[:, :-1].flatten(0, 1), PIECE_ROWS):
            yield functional.log_softmax(logits(rows, norm, head, epsilon), dim=-1)
