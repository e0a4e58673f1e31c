"""Comparison of two models: facts, tensors, and scores on a text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from converters.onnx.reader import OnnxModel
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, text_windows
from phi3quant.evaluation.metrics import WorstWindow, figures, plain, worst_windows
from phi3quant.evaluation.perplexity import Comparison, score, scoring, steps
from phi3quant.gating import facts
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    block_tensor_name,
)
from phi3quant.model.device import AUTO, find_device
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress, Step, bars
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import Model, locate


@dataclass(frozen=True)
class TensorChange:
    """Change of a tensor between two models.

    Attributes:
        name: name in a checkpoint.
        relative: Frobenius norm of the difference divided by that of the first; None if the shapes
            differ or only one model has the tensor.
    """

    name: str
    relative: float | None


@dataclass(frozen=True)
class ModelComparison:
    """Comparison of two models.

    Attributes:
        names: names of the models as they were passed.
        formats: storage formats of the models.
        changes: lines on exact facts that differ, by subject.
        uncompared: reason why tensors weren't compared; empty if they were.
        tensors: number of compared tensors.
        changed: tensors that differ, the largest change first.
        figures: figures of both models on the text; None if they weren't scored.
        text: text that they were scored on; None if they weren't scored.
        worst: windows in which the second model lost most.
        unscored: reason why the models weren't scored; empty if they were.
    """

    names: tuple[str, str]
    formats: tuple[str, str]
    changes: Mapping[str, Sequence[str]]
    uncompared: str
    tensors: int
    changed: Sequence[TensorChange]
    figures: Sequence[Mapping[str, Any]] | None
    text: Mapping[str, Any] | None
    worst: Sequence[WorstWindow]
    unscored: str

    @property
    def comparable(self) -> bool:
        """Whether both predict the same tokens."""
        return "tokenizer" not in self.changes

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "names": list(self.names),
            "formats": list(self.formats),
            "changes": {subject: list(lines) for subject, lines in self.changes.items()},
            "uncompared": self.uncompared or None,
            "tensors": self.tensors,
            "changed_tensors": [
                {"name": change.name, "relative": change.relative} for change in self.changed
            ],
            "text": dict(self.text) if self.text else None,
            "models": list(self.figures) if self.figures else None,
            "worst_windows": [window.as_json() for window in self.worst],
            "unscored": self.unscored or None,
        }


def compare(
    first: Model,
    second: Model,
    text: EvaluationText | None = None,
    *,
    scored: bool = True,
    progress: Progress = bars,
    device: str = AUTO,
) -> ModelComparison:
    """Compare two models of any kind: plain, packed, GGUF, ONNX.

    AWQ moves scales from one tensor to its neighbour, so that tensors of an AWQ model differ from
    the original by more than rounding. Only the scores show the effect.

    Args:
        first: model that the other is compared with.
        second: the other model.
        text: text to score on; None for the bundled text that suits the first model.
        scored: whether to score the models.
        progress: display of the blocks.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        Phi3QuantError: a model or the text can't be used.
    """
    found = find_device(device)
    located = locate(first)
    pair = (
        open_artifact(replace(located, name=located.title)),
        open_artifact(locate(second)),
    )
    one, other = pair
    blocks = max(each.model.config.num_hidden_layers for each in pair)
    uncompared = ", ".join(each.name for each in pair if isinstance(each.model, OnnxModel))
    compared: list[TensorChange] = []
    if not isinstance(one.model, OnnxModel) and not isinstance(other.model, OnnxModel):
        with progress("comparing tensors", blocks) as step:
            compared = list(_tensor_changes(one.model, other.model, step))
    unscored = "" if scored else "not asked for"
    if one.tokenizer.digest != other.tokenizer.digest:
        unscored = "their tokenizers differ, so their predictions don't compare"
    windows, description, comparisons = None, None, None
    if not unscored:
        windows, description = text_windows(
            text or EvaluationText(), one.tokenizer, one.model.config
        )
        models = [each.model for each in pair]
        with scoring(found, progress, steps(models)) as step:
            comparisons = score(models, windows, step, found)
    return ModelComparison(
        (str(first), str(second)),
        (one.model.format, other.model.format),
        _changes(one, other),
        f"only a runtime reads the weights of {uncompared}" if uncompared else "",
        len(compared),
        sorted(
            (change for change in compared if change.relative != 0),
            key=lambda change: -1 if change.relative is None else -change.relative,
        ),
        _figures(comparisons),
        description,
        worst_windows(comparisons[1], windows, one.tokenizer.decode)
        if comparisons and windows is not None
        else [],
        unscored,
    )


def _figures(comparisons: Sequence[Comparison] | None) -> list[dict[str, Any]] | None:
    if comparisons is None:
        return None
    return [figures(each, reference=number == 0) for number, each in enumerate(comparisons)]


def _changes(one: Artifact, other: Artifact) -> dict[str, list[str]]:
    """Lines on different facts and manifests, by subject."""
    first, second = facts.facts(one), facts.facts(other)
    same_kind = facts.kind(one.model) == facts.kind(other.model)
    changes = facts.changes(first, second, same_kind=same_kind)
    changes["tokenizer"] = facts.differences(
        one.tokenizer.digest, other.tokenizer.digest, "SHA-256 of the vocabulary"
    )
    for subject in ("recipe", "source", "calibration", "tools"):
        before, after = one.manifest.get(subject), other.manifest.get(subject)
        # If only one model has a subject, a list of its values would be too long.
        changes[subject] = (
            facts.differences(before, after)
            if before and after
            else [f"only {one.name if before else other.name} states it"]
            if before or after
            else []
        )
    return {subject: lines for subject, lines in changes.items() if lines}


def _tensor_changes(one: ModelWeights, other: ModelWeights, step: Step) -> Iterator[TensorChange]:
    """Compare tensors of the same name, with one block of each model in memory."""
    yield _change(EMBEDDING, one.embedding(), other.embedding())
    for index in range(max(one.config.num_hidden_layers, other.config.num_hidden_layers)):
        yield from _block_changes(one, other, index)
        step()
    yield _change(FINAL_NORM, one.final_norm(), other.final_norm())
    yield _change(HEAD, one.head(), other.head())


def _block_changes(one: ModelWeights, other: ModelWeights, index: int) -> Iterator[TensorChange]:
    if index >= min(one.config.num_hidden_layers, other.config.num_hidden_layers):
        yield from (TensorChange(block_tensor_name(index, key), None) for key in BLOCK_TENSORS)
        return
    first, second = one.block(index), other.block(index)
    for key in BLOCK_TENSORS:
        yield _change(block_tensor_name(index, key), first[key], second[key])


def _change(name: str, first: torch.Tensor, second: torch.Tensor) -> TensorChange:
    if first.shape != second.shape:
        return TensorChange(name, None)
    size, distance = float(first.norm()), float((second - first).norm())
    return TensorChange(name, plain(distance / size) if size else plain(distance))
