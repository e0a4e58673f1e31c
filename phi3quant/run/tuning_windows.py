"""Windows of text to tune on, and held-back windows that judge the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from calib import windows
from phi3quant.errors import CorpusError
from phi3quant.run.calibration_windows import CalibrationWindows, every_window, sources_of
from phi3quant.run.recipe import Calibration
from phi3quant.source.tokenizer import Tokenizer
from phi3quant.tuning.tune import Windows

# Held-back windows of a text: one of so many, and the largest number.
_HELD_BACK, _MOST_HELD_BACK = 8, 8


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
    tokenizer: Tokenizer,
    vocab_size: int,
    calibration: Calibration,
    calibrated: CalibrationWindows | None,
    limit: int,
) -> TuningWindows:
    """Windows of the calibration's texts, and held-back ones of these and of the bundled text.

    Held-back windows are not those that codes were calibrated on, as far as there are others.

    Args:
        tokenizer: tokenizer of the model.
        vocab_size: rows of the model's embedding.
        calibration: texts, length of the windows and seed.
        calibrated: windows that codes were calibrated on; None if they are unknown.
        limit: largest number of windows to train on.

    Raises:
        CorpusError: the text can't be used, or has fewer than two windows.
        TokenizerError: the text has tokens without a row in the embedding.
    """
    known = set() if calibrated is None else {windows.digest(each) for each in calibrated.ids}
    train: list[torch.Tensor] = []
    held_back: dict[str, torch.Tensor] = {}
    for source, judged_only in sources_of(tokenizer, calibration).items():
        name, every = every_window(source, tokenizer, vocab_size, calibration)
        # Fresh windows come first, both kinds in the order of their hashes.
        ordered = sorted(every, key=lambda each: windows.digest(each) in known)
        count = max(1, min(len(ordered) // _HELD_BACK, _MOST_HELD_BACK))
        held_back[name] = torch.stack(ordered[:count])
        if not judged_only:
            train += ordered[count:]
    if not train:
        raise CorpusError("the text for tuning has only one window; give more text")
    ids = windows.sample_windows(torch.stack(train), limit, calibration.seed)
    ids = windows.shuffled_by_content(ids)
    return TuningWindows(
        Windows(ids, held_back),
        {
            "windows": len(ids),
            "window_tokens": calibration.length,
            "tokens_sha256": windows.digest(ids),
            "held_back": {name: windows.digest(each) for name, each in held_back.items()},
        },
    )
