"""Evaluation of models that are read back from disk: perplexity and divergence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch

from calib import windows
from calib.corpus import load_corpus, render, suitable
from converters import as_run, open_located
from converters.onnx.reader import OnnxModel
from phi3quant.errors import CorpusError, InputError, require
from phi3quant.evaluation.full_precision import FullPrecision
from phi3quant.evaluation.metrics import figures
from phi3quant.evaluation.perplexity import Comparison, score, scoring, steps
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import AUTO, CPU, find_device
from phi3quant.model.predictor import Predictor, final_states
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress, bars
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Located, Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import Tokenizer, require_rows

Artifact: TypeAlias = OpenedModel[StoredWeights | OnnxModel]
"""Model that can be scored: plain, packed, GGUF or ONNX."""


@dataclass(frozen=True)
class EvaluationText:
    """Text to score models on.

    Attributes:
        source: file, folder, hf:DATASET or bundled corpus (see calib.corpus.load_corpus); None
            for the bundled text that suits the model.
        field: name of the field that holds the text of a record.
        length: tokens in a window; None for 512, or less if the model's context is shorter.
        max_tokens: limit on the scored tokens; None for the whole text.

    Raises:
        CorpusError: a value has a wrong type.
    """

    source: str | Path | None = None
    field: str | None = None
    length: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        require(CorpusError, "source", self.source, str, Path, None)
        require(CorpusError, "field", self.field, str, None)
        require(CorpusError, "length", self.length, int, None)
        require(CorpusError, "max_tokens", self.max_tokens, int, None)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of models on the same windows.

    ``evaluation["out"]`` is the comparison of the model that was passed as ``out``.

    Attributes:
        names: names as they were passed, the reference first; a model that is scored in several
            ways (converters.as_run) has one for each way.
        sizes: bytes of weights on disk, by model.
        comparisons: comparisons with the reference, in the order of names.
        text: origin of the windows, with hashes.
        origins: index of the passed model for each name.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    comparisons: Sequence[Comparison]
    text: Mapping[str, Any]
    origins: Sequence[int]

    def __getitem__(self, name: str | Path) -> Comparison:
        """Comparison of a model with the reference, by the model's name.

        Raises:
            KeyError: there is no such name; the message lists the names.
        """
        for each, comparison in zip(self.names, self.comparisons, strict=True):
            if each == str(name):
                return comparison
        raise KeyError(f"{name} was not scored; there are {', '.join(self.names)}")

    def __repr__(self) -> str:
        scored = [
            f"{name}: {comparison.candidate.perplexity:.4g}"
            + (f" ({comparison.ratio:.4f})" if number else "")
            for number, (name, comparison) in enumerate(
                zip(self.names, self.comparisons, strict=True)
            )
        ]
        return (
            f"<Evaluation of {self.comparisons[0].reference.tokens:,} tokens, {', '.join(scored)}>"
        )

    def as_json(self) -> dict[str, Any]:
        """Figures as JSON values."""
        rows = zip(self.names, self.sizes, self.comparisons, strict=True)
        return {
            "text": dict(self.text),
            "models": [
                {"name": name, "bytes": size, **figures(comparison, reference=number == 0)}
                for number, (name, size, comparison) in enumerate(rows)
            ],
        }


def evaluate(
    models: Sequence[Model],
    text: EvaluationText | None = None,
    *,
    revision: str | None = None,
    progress: Progress = bars,
    device: str = AUTO,
) -> Evaluation:
    """Score one or more models, and compare the others with the first, token by token.

    Args:
        models: folders, .gguf files, hub ids, or None for the bundled model.
        text: text to score on; None for the defaults.
        revision: revision of hub ids.
        progress: display of the blocks.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        Phi3QuantError: see phi3quant.errors; InputError if the models' tokenizers differ, so that
            their perplexities can't be compared.

    Examples:
        >>> scored = evaluate(["phi3-tiny"], EvaluationText(max_tokens=2048))
        >>> scored.comparisons[0].candidate.tokens
        2044
    """
    found = find_device(device)
    opened = [open_located(_named(model, revision)) for model in models]
    return evaluate_opened(opened, text or EvaluationText(), progress, found)


def _named(model: Model, revision: str | None) -> Located:
    """Locate a model, and name folders by their path, since their last parts may be equal."""
    if isinstance(model, Located):
        return model
    located = locate(model, revision)
    return Located(located.path, str(model)) if model and Path(model).exists() else located


def evaluate_opened(
    opened: Sequence[Artifact],
    text: EvaluationText,
    progress: Progress,
    device: torch.device = CPU,
    kept: FullPrecision | None = None,
) -> Evaluation:
    """Score opened models as ``evaluate`` does; tables show their names.

    Args:
        opened: models, the reference first.
        text: text to score on.
        progress: display of the blocks.
        device: device to compute on.
        kept: predictions of the reference on this text, if they are known.

    Raises:
        Phi3QuantError: as evaluate.
    """
    ways = [as_run(each.located.title, each.model) for each in opened]
    named = [way for several in ways for way in several]
    models = [model for _, model in named]
    reference = opened[0]
    for each in opened:
        if each.tokenizer.digest != reference.tokenizer.digest:
            raise InputError(
                f"{each.name} has another tokenizer than {reference.name}, so their perplexities "
                "can't be compared; score them one at a time"
            )
    scored: list[ModelWeights | Predictor] = list(models)
    if kept is None:
        cut, description = text_windows(text, reference.tokenizer, reference.config)
    else:
        cut, description = kept.windows, dict(kept.description)
        # A reference whose predictions are known has readable weights and one way of running.
        scored[0] = kept.predictor(cast("ModelWeights", models[0]), device)
    with scoring(device, progress, steps(scored)) as step:
        comparisons = score(scored, cut, step, device)
    return Evaluation(
        [name for name, _ in named],
        [model.weight_bytes for model in models],
        comparisons,
        description,
        [index for index, several in enumerate(ways) for _ in several],
    )


def full_precision(
    opened: OpenedModel[Checkpoint],
    text: EvaluationText,
    progress: Progress,
    device: torch.device = CPU,
) -> FullPrecision:
    """Run the original on a text, for the scoring of several artifacts made from it.

    In memory at once are a block and the states of all windows.

    Raises:
        Phi3QuantError: the text or the model can't be used.
    """
    cut, description = text_windows(text, opened.tokenizer, opened.config)
    model = opened.model
    with scoring(device, progress, opened.config.num_hidden_layers, "scoring the original") as step:
        states = final_states(model, cut, step, device)[:, :-1].flatten(0, 1)
    return FullPrecision(cut, description, states.cpu())


def text_windows(
    text: EvaluationText, tokenizer: Tokenizer, config: Phi3Config
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Cut a text into windows, and describe it for reports.

    Returns:
        Token ids, int64 [windows, length]; names and hashes.

    Raises:
        CorpusError: the text can't be used.
    """
    source = suitable(tokenizer) if text.source is None else text.source
    corpus = load_corpus(source, "evaluation", text.field)
    length = text.length or min(512, config.max_position_embeddings)
    ids = tokenizer.encode_long(render(corpus, tokenizer), text.max_tokens)
    cut = windows.cut_windows(ids, length, f"the evaluation text {source}")
    require_rows(tokenizer, cut.numpy(), config.vocab_size)
    return cut, {
        **corpus.as_json(),
        "vocabulary_sha256": tokenizer.digest,
        "tokens_sha256": windows.digest(cut),
        "windows": len(cut),
        "window_tokens": length,
        "bos": "none added",
        "protocol": "non-overlapping windows, every target after the first of a window",
    }
