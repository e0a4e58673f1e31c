"""Subject of the comparison: a model with its texts, shared by all rows."""

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
"""Folder for artifacts and for files that rows share."""

RESULTS = ROOT / "benchmarks" / "quality" / "results"
"""Folder for results; they are committed, since a row takes up to an hour."""


@dataclass(frozen=True)
class Subject:
    """A model and its texts.

    Attributes:
        name: name in tables, and of the folders under WORK and RESULTS.
        model: folder of the model.
        calib: the calibration text.
        texts: texts for scoring, none of them part of the calibration text.
        samples, seq_len: number and length of the calibration windows.
    """

    name: str
    model: Path
    calib: str
    texts: tuple[EvaluationText, ...]
    samples: int
    seq_len: int

    @property
    def folder(self) -> Path:
        """Folder for artifacts."""
        return WORK / self.name

    @property
    def results(self) -> Path:
        """Folder for results."""
        return RESULTS / self.name

    @cached_property
    def opened(self) -> StoredWeights:
        """The model in full precision."""
        return open_weights(self.model)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model."""
        return open_tokenizer(self.model)

    @cached_property
    def calibration(self) -> torch.Tensor:
        """Windows that phi3quant chooses by default, int64 [samples, seq_len]."""
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
        """Hashes of the inputs that all rows share: weights and calibration."""
        return {
            "weights": [sha256(file) for file in self.opened.files],
            "calibration": windows.digest(self.calibration),
        }

    @cached_property
    def text_hashes(self) -> tuple[str, ...]:
        """Hash of the tokens of each text."""
        return tuple(description["tokens_sha256"] for _, description in self.scored)

    def write_calibration(self) -> tuple[Path, Path]:
        """Write the calibration windows for the peers.

        Returns:
            Paths of the file of token ids (.npy) and of the text file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ids, words = self.folder / "windows.npy", self.folder / "windows.txt"
        np.save(ids, self.calibration.numpy())
        texts = [self.tokenizer.decode(window.tolist()) for window in self.calibration]
        words.write_text("".join(texts), encoding="utf-8")
        return ids, words

    def compare(self, model: ModelWeights, number: int) -> Comparison:
        """Score a model on text ``number`` and compare it with full precision."""
        cut, description = self.scored[number]
        kept = self.folder / f"states-{description['tokens_sha256'][:12]}.safetensors"
        if not kept.exists():
            states = final_states(self.opened, cut, lambda _steps: None)
            save_file({"states": states}, kept)
        reference = _Remembered(self.opened, load_file(kept)["states"])
        return score([reference, model], cut)[1]


@dataclass(frozen=True)
class _Remembered:
    """The model in full precision with saved states; implements Predictor.

    Attributes:
        model: the model, of which only norm and head are used.
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
        """See Predictor; ``windows`` must be those of the states."""
        del windows, tell
        return self._log_probabilities

    def _log_probabilities(self) -> Iterator[torch.Tensor]:
        norm, head, epsilon = self.model.final_norm(), self.model.head(), self.config.rms_norm_eps
        for rows in torch.split(self.states[:, :-1].flatten(0, 1), PIECE_ROWS):
            yield functional.log_softmax(logits(rows, norm, head, epsilon), dim=-1)
