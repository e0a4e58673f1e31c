"""Score artifacts as read back from disk, against full precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calib.corpus import load_corpus, render, suitable
from converters import as_run, open_model, open_tokenizer
from phi3quant import provenance, windows
from phi3quant.config import Phi3Config
from phi3quant.draft import Draft
from phi3quant.errors import InputError
from phi3quant.hub import Located, locate
from phi3quant.metrics import figures
from phi3quant.perplexity import Comparison, score, steps
from phi3quant.pipeline import Quantized
from phi3quant.progress import Progress, silent
from phi3quant.tokenizer import Tokenizer, require_rows
from phi3quant.workspace import check_output


@dataclass(frozen=True)
class EvaluationText:
    """What text models are scored on.

    Attributes:
        source: as calib.corpus.load_corpus takes it; None: the bundled text that suits the model.
        field: the field of each record that holds the text.
        length: tokens in a window; None: 512, or less if the model's context is shorter.
        max_tokens: how much of the text is scored; None: all of it.
    """

    source: str | Path | None = None
    field: str | None = None
    length: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Models scored on the same windows.

    Attributes:
        names: of the models as they were given, the reference first. One that is run in several
            ways (converters.as_run) has a name for each.
        sizes: bytes of weights on disk.
        comparisons: each with the reference, in the order of names.
        text: where the windows came from, with hashes.
        origins: for each name, which of the models that were given it is.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    comparisons: Sequence[Comparison]
    text: Mapping[str, Any]
    origins: Sequence[int]

    def as_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        rows = zip(self.names, self.sizes, self.comparisons, strict=True)
        return {
            "text": dict(self.text),
            "models": [
                {"name": name, "bytes": size, **figures(comparison, reference=number == 0)}
                for number, (name, size, comparison) in enumerate(rows)
            ],
        }


def evaluate(
    models: Sequence[str | Path | None],
    text: EvaluationText | None = None,
    *,
    revision: str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Score one or more models; further ones are compared with the first, token by token.

    Args:
        models: folders, hub ids or None for the bundled model, plain or quantized.
        text: what to score on.
        revision: of hub ids.
        progress: is told of the blocks done.

    Raises:
        Phi3QuantError: see phi3quant.errors; InputError if the models' tokenizers differ, so that
            their perplexities don't compare.

    Examples:
        >>> scored = evaluate(["phi3-tiny"], EvaluationText(max_tokens=2048))
        >>> scored.comparisons[0].candidate.tokens
        2044
    """
    found = [locate(model, revision) for model in models]
    # Two folders may share their last name, so that a table needs the path as it was given.
    named = [
        Located(item.path, str(model)) if model and Path(model).exists() else item
        for item, model in zip(found, models, strict=True)
    ]
    return _evaluate(named, text or EvaluationText(), progress)


def verify(
    quantized: Quantized,
    text: EvaluationText | None = None,
    *,
    progress: Progress = silent,
) -> Evaluation:
    """Score what ``quantize`` wrote, as read back from disk, against its source.

    The figures are also recorded in each folder's manifest. ``Verification`` does the same before
    an output takes its place.

    Raises:
        Phi3QuantError: an artifact or its source can't be read back, or the text can't be used.
    """
    places = quantized.folders
    # Before the scoring, since the manifests go in as a whole new folder.
    check_output(next(iter(places.values())), overwrite=True)
    artifacts = [Located(folder, str(folder)) for folder in places.values()]
    result = _evaluate([quantized.source, *artifacts], text or EvaluationText(), progress)
    records = zip(places.values(), _records(result, len(places)), strict=True)
    provenance.record_verifications(next(iter(places.values())), dict(records))
    return result


class Verification:
    """Scores a draft against its source; implements phi3quant.draft.Judge.

    Attributes:
        evaluation: the figures; None until a draft was scored.
    """

    def __init__(self, text: EvaluationText | None = None, progress: Progress = silent) -> None:
        self.evaluation: Evaluation | None = None
        self._text = text or EvaluationText()
        self._progress = progress

    def prepare(self, source: Located, config: Phi3Config) -> None:
        """See Judge."""
        text_windows(self._text, open_tokenizer(source.path), config)

    def __call__(self, draft: Draft) -> dict[str, dict[str, Any]]:
        """See Judge."""
        artifacts = [
            Located(folder, str(draft.places[name])) for name, folder in draft.folders.items()
        ]
        self.evaluation = _evaluate([draft.source, *artifacts], self._text, self._progress)
        records = _records(self.evaluation, len(artifacts))
        return dict(zip(draft.folders, records, strict=True))


def _records(result: Evaluation, count: int) -> list[dict[str, Any]]:
    """A manifest's ``verification`` for each of ``count`` artifacts, scored after their source."""
    records = []
    for number in range(1, count + 1):
        first, *others = (
            figures(comparison, reference=False)
            for origin, comparison in zip(result.origins, result.comparisons, strict=True)
            if origin == number
        )
        record = {
            "text": dict(result.text),
            "reference": figures(result.comparisons[0], reference=True),
            "artifact": first,
        }
        # The only other way there is; see converters.as_run.
        if others:
            record["at_accuracy_level_0"] = others[0]
        records.append(record)
    return records


def _evaluate(located: Sequence[Located], text: EvaluationText, progress: Progress) -> Evaluation:
    ways = [as_run(item.name, open_model(item.path)) for item in located]
    named = [way for several in ways for way in several]
    models = [model for _, model in named]
    tokenizers = [open_tokenizer(item.path) for item in located]
    for item, tokenizer in zip(located, tokenizers, strict=True):
        if tokenizer.digest != tokenizers[0].digest:
            raise InputError(
                f"{item.name} has another tokenizer than {located[0].name}; perplexities over "
                "different tokens don't compare. Score them one at a time"
            )
    cut, description = text_windows(text, tokenizers[0], models[0].config)
    with torch.inference_mode(), progress("scoring", steps(models)) as step:
        comparisons = score(models, cut, step)
    return Evaluation(
        [name for name, _ in named],
        [model.weight_bytes for model in models],
        comparisons,
        description,
        [index for index, several in enumerate(ways) for _ in several],
    )


def text_windows(
    text: EvaluationText, tokenizer: Tokenizer, config: Phi3Config
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The windows of a text that are scored, and what a report says of them.

    Returns:
        int64 token ids [windows, length]; names and hashes.

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
