"""Windows of text to tune on, and held-back windows that judge the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from calib import windows
from calib.corpus import suitable
from calib.mixture import TextShare, portions
from phi3quant.errors import CorpusError
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import (
    CalibrationWindows,
    TextWindows,
    all_windows,
    described,
    mixed,
    shares_of,
)
from phi3quant.run.window_counts import (
    ENOUGH_TO_JUDGE,
    calibrated_on,
    held_back_windows,
    tuned_on,
)
from phi3quant.run.written_windows import Writing
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import require_rows
from phi3quant.tuning.tune import Windows


@dataclass(frozen=True)
class TuningWindows:
    """Windows to tune on.

    Attributes:
        windows: windows to train and to judge on.
        description: texts, hashes and numbers of windows, for manifests.
    """

    windows: Windows
    description: Mapping[str, Any]


def tuning_windows(
    source: OpenedModel[StoredWeights],
    calibration: Calibration,
    calibrated: CalibrationWindows | None,
    limit: int,
    writing: Writing,
) -> TuningWindows:
    """Windows of the calibration's texts, and held-back ones of these and of the bundled text.

    Held-back windows are not those that codes were calibrated on, as far as there are others.

    Args:
        source: model that is tuned.
        calibration: texts with their shares, length of the windows and seed.
        calibrated: windows that codes were calibrated on; None if they are unknown.
        limit: largest number of windows to train on.
        writing: device and memory for text that the model writes itself.

    Raises:
        CorpusError: a text can't be used, or there is only one window.
        TokenizerError: a text has tokens without a row in the embedding.
        CheckpointError: the model can't write text.
    """
    known = set() if calibrated is None else {windows.digest(each) for each in calibrated.ids}
    shares = shares_of(source, calibration)
    samples = 0 if calibrated is None else calibration.samples
    texts = all_windows(source, shares, calibration, writing, tuned_on(shares, limit, samples))
    train: list[TextWindows] = []
    judging: dict[str, torch.Tensor] = {}
    for text in [*texts, *_judges(source, texts, calibration, writing)]:
        require_rows(source.tokenizer, text.ids.numpy(), source.config.vocab_size)
        # Fresh windows come first, both kinds in the order of their hashes.
        fresh_first = torch.stack(
            sorted(
                windows.shuffled_by_content(text.ids),
                key=lambda each: windows.digest(each) in known,
            )
        )
        count = held_back_windows(len(fresh_first))
        judging[text.name] = fresh_first[:count]
        train.append(replace(text, ids=fresh_first[count:]))
    del train[len(texts) :]
    counts = portions([len(each.ids) for each in train], [each.share for each in train], limit)
    if not sum(counts):
        raise CorpusError("the text for tuning has only one window; give more text")
    ids = mixed(train, counts, calibration.seed)
    return TuningWindows(
        Windows(ids, judging),
        {
            **(described(train, counts) if len(train) > 1 else {}),
            "windows": len(ids),
            "window_tokens": calibration.length,
            "tokens_sha256": windows.digest(ids),
            "held_back": {name: windows.digest(each) for name, each in judging.items()},
        },
    )


def _judges(
    source: OpenedModel[StoredWeights],
    texts: Sequence[TextWindows],
    calibration: Calibration,
    writing: Writing,
) -> list[TextWindows]:
    """The bundled text, which judges in any case, unless it is one of the texts."""
    bundled = TextShare(suitable(source.tokenizer))
    unlimited = replace(calibration, field=None)
    judges = all_windows(source, [bundled], unlimited, writing, calibrated_on([bundled], 0))
    listed = {text.description["text_sha256"] for text in texts}
    return [
        replace(
            each,
            ids=windows.sample_windows(each.ids, ENOUGH_TO_JUDGE, calibration.seed),
        )
        for each in judges
        if each.description["text_sha256"] not in listed
    ]
