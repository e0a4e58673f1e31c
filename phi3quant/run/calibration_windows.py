"""Calibration windows: texts that were tokenized, cut, sampled and mixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calib import windows
from calib.corpus import BUNDLED, load_corpus, render, suitable
from calib.mixture import TextShare, text_shares
from phi3quant.errors import CorpusError
from phi3quant.notices import notify
from phi3quant.run import written_windows
from phi3quant.run.calibration import Calibration
from phi3quant.run.window_counts import Needed, calibrated_on, tuned_on
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
    tuned: int | None = None,
) -> CalibrationWindows:
    """Sample the windows that a method calibrates on.

    Args:
        source: model to calibrate.
        calibration: texts, number and length of the windows, seed.
        writing: device and memory for text that the model writes itself.
        tuned: largest number of windows that the run tunes on; None if it doesn't tune. Text that
            the model writes is left to tuning if there is other text, which is better for codes.

    Raises:
        CorpusError: a text can't be used.
        TokenizerError: a text has tokens without a row in the embedding.
        CheckpointError: the model can't write text.
    """
    if calibration.samples < 1:
        raise CorpusError(f"{calibration.samples} calibration windows are too few; use 1 or more")
    shares = shares_of(source, calibration)
    alone = len(shares) == 1
    if tuned is not None and not alone:
        shares = [each for each in shares if each.written_windows is None]
    chosen = calibrated_on(shares, calibration.samples)
    needed = chosen
    if tuned is not None and alone:
        # Text to tune on too is written once.
        needed = tuned_on(shares, tuned, calibration.samples)
    texts = all_windows(source, shares, calibration, writing, needed)
    counts = chosen([len(each.ids) for each in texts])
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
    needed: Needed,
) -> list[TextWindows]:
    """All windows of each text; of text that the model writes, those that are needed.

    Args:
        source: model whose tokens they have.
        shares: texts.
        calibration: length of the windows, field of the text, and seed of text that is written.
        writing: device and memory for text that the model writes itself.
        needed: function from the windows of each text to those that are used.

    Raises:
        CorpusError: a text can't be used, or two have the same content.
        TokenizerError: the tokenizer doesn't fit the model that writes.
        CheckpointError: the model can't write text.
    """
    others = {
        index: _windows_of(
            source,
            each,
            calibration,
            # The field is of the user's records; a bundled text alone is refused as before.
            None if each.source in BUNDLED and len(shares) > 1 else calibration.field,
        )
        for index, each in enumerate(shares)
        if each.written_windows is None
    }
    counts = needed(
        [each.written_windows or len(others[index].ids) for index, each in enumerate(shares)]
    )
    texts: dict[str, TextWindows] = {}
    for index, each in enumerate(shares):
        one = others.get(index)
        if one is None:
            shape = (max(1, counts[index]), calibration.length)
            ids = kept_or_written(source, shape, calibration.seed, writing)
            one = TextWindows(ids, each.share, written_windows.describe(ids))
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
    field: str | None,
) -> TextWindows:
    tokenizer, length = source.tokenizer, calibration.length
    corpus = load_corpus(text.source, "calibration", field)
    stream = tokenizer.encode_long(render(corpus, tokenizer))
    ids = windows.cut_windows(stream, length, f"the calibration text {text.source}")
    return TextWindows(ids, text.share, corpus.as_json())
