"""Calibration windows: texts that were tokenized, cut, sampled and mixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calib import windows
from calib.corpus import BUNDLED, load_corpus, render, suitable
from calib.mixture import TextShare, portions, text_shares
from phi3quant.errors import CorpusError
from phi3quant.notices import notify
from phi3quant.run import written_windows
from phi3quant.run.calibration import Calibration
from phi3quant.run.written_windows import Writing, kept_or_written
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import require_rows

_CPU = Writing()


@dataclass(frozen=True)
class CalibrationWindows:
    """Windows of calibration text.

    Attributes:
        ids: int64 [windows, length].
        description: texts, hashes and number of windows, for manifests.
    """

    ids: torch.Tensor
    description: Mapping[str, Any]


@dataclass(frozen=True)
class TextWindows:
    """All windows of one text.

    Attributes:
        ids: int64 [windows, length], in the order of the text.
        share: share of the text in its mixture.
        description: name and hash, for manifests.
    """

    ids: torch.Tensor
    share: float
    description: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the text."""
        return str(self.description["text"])


def calibration_windows(
    source: OpenedModel[StoredWeights],
    calibration: Calibration,
    writing: Writing = _CPU,
    *,
    tunes: bool = False,
) -> CalibrationWindows:
    """Sample the windows that a method calibrates on.

    Args:
        source: model to calibrate.
        calibration: texts, number and length of the windows, seed.
        writing: device and memory for text that the model writes itself.
        tunes: whether the run tunes. Text that the model writes is then left to tuning if there is
            other text, which is better for codes.

    Raises:
        CorpusError: a text can't be used.
        TokenizerError: a text has tokens without a row in the embedding.
        CheckpointError: the model can't write text.
    """
    if calibration.samples < 1:
        raise CorpusError(f"{calibration.samples} calibration windows are too few; use 1 or more")
    shares = shares_of(source, calibration)
    if tunes and len(shares) > 1:
        shares = [each for each in shares if each.written_windows is None]
    texts = all_windows(source, shares, calibration, writing)
    counts = portions(
        [len(each.ids) for each in texts], [each.share for each in texts], calibration.samples
    )
    ids = mixed(texts, counts, calibration.seed)
    require_rows(source.tokenizer, ids.numpy(), source.config.vocab_size)
    return CalibrationWindows(
        ids,
        {
            **described(texts, counts),
            "windows": len(ids),
            "window_tokens": calibration.length,
            "seed": calibration.seed,
            "tokens_sha256": windows.digest(ids),
        },
    )


def shares_of(source: OpenedModel[StoredWeights], calibration: Calibration) -> Sequence[TextShare]:
    """Texts of a calibration with their shares; the suitable bundled text if it has none."""
    entries = calibration.sources or (suitable(source.tokenizer),)
    return text_shares(entries)


def all_windows(
    source: OpenedModel[StoredWeights],
    shares: Sequence[TextShare],
    calibration: Calibration,
    writing: Writing,
) -> list[TextWindows]:
    """All windows of each text.

    Args:
        source: model whose tokens they have.
        shares: texts.
        calibration: length of the windows, field of the text, and seed of text that is written.
        writing: device and memory for text that the model writes itself.

    Raises:
        CorpusError: a text can't be used, or two have the same content.
        TokenizerError: the tokenizer doesn't fit the model that writes.
        CheckpointError: the model can't write text.
    """
    texts: dict[str, TextWindows] = {}
    for each in shares:
        # The field is of the user's records; a bundled text alone is refused as before.
        bundled = each.source in BUNDLED and len(shares) > 1
        one = _windows_of(
            source, each, calibration, writing, field=None if bundled else calibration.field
        )
        same = texts.setdefault(str(one.description["text_sha256"]), one)
        if same is not one:
            raise CorpusError(
                f"{same.name} and {one.name} are the same text; list it once, with a larger share"
            )
    return list(texts.values())


def mixed(texts: Sequence[TextWindows], counts: Sequence[int], seed: int) -> torch.Tensor:
    """Windows int64 [sum of counts, length], a sample of each text, in the order of their hashes.

    Args:
        texts: the texts.
        counts: number of windows from each.
        seed: sampling seed.
    """
    notify(
        f"{each.name}: none of its windows is used, because its share is too small or it has too "
        "few; raise the share or give more text"
        for each, count in zip(texts, counts, strict=True)
        if not count
    )
    samples = [
        windows.sample_windows(each.ids, count, seed)
        for each, count in zip(texts, counts, strict=True)
    ]
    return windows.shuffled_by_content(torch.cat(samples))


def described(texts: Sequence[TextWindows], counts: Sequence[int]) -> dict[str, Any]:
    """Texts as JSON values, for manifests; a single one without its share."""
    if len(texts) == 1:
        return dict(texts[0].description)
    return {
        "texts": [
            {**each.description, "share": each.share, "windows": count}
            for each, count in zip(texts, counts, strict=True)
        ]
    }


def names_of(description: Mapping[str, Any]) -> list[str]:
    """Names of the texts in a description of calibration windows."""
    return [str(each["text"]) for each in description.get("texts", [description])]


def _windows_of(
    source: OpenedModel[StoredWeights],
    text: TextShare,
    calibration: Calibration,
    writing: Writing,
    *,
    field: str | None,
) -> TextWindows:
    tokenizer, length = source.tokenizer, calibration.length
    if text.written_windows is not None:
        shape = (text.written_windows, length)
        ids = kept_or_written(source, shape, calibration.seed, writing)
        return TextWindows(ids, text.share, written_windows.describe(ids))
    corpus = load_corpus(text.source, "calibration", field)
    stream = tokenizer.encode_long(render(corpus, tokenizer))
    ids = windows.cut_windows(stream, length, f"the calibration text {text.source}")
    return TextWindows(ids, text.share, corpus.as_json())
