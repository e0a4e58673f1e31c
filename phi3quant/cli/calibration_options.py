"""Options that choose the calibration text."""

from collections.abc import Mapping
from dataclasses import dataclass

import click

from phi3quant.cli import options
from phi3quant.run.calibration import Calibration

_DEFAULT = Calibration()

TEXT_OPTIONS = (
    click.option(
        "--calib",
        multiple=True,
        metavar="TEXT[=SHARE]",
        help="Text for calibration: a .txt, .md, .jsonl, .json or .parquet file, a folder, "
        "hf:DATASET, a bundled text (general or tiny), or self for text that MODEL writes "
        "(self:512 for up to 512 windows of it; for tuning). Repeat it to mix texts, each with a "
        "share (1 without one).  [default: the bundled text that suits the model]",
    ),
    click.option("--calib-field", help="Field of each record with the text or the chat."),
)
"""Options that choose the text."""

CUT_OPTIONS = (
    click.option(
        "--seq-len",
        type=click.IntRange(2),
        default=_DEFAULT.length,
        show_default=True,
        help="Tokens in a calibration window.",
    ),
    click.option(
        "--seed",
        type=int,
        default=_DEFAULT.seed,
        show_default=True,
        help="Seed for the choice of calibration windows, and for text that MODEL writes.",
    ),
)
"""Options that cut it into windows."""

CALIBRATION_OPTIONS = (
    *TEXT_OPTIONS,
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=_DEFAULT.samples,
        show_default=True,
        help="Number of calibration windows; presets use 128.",
    ),
    *CUT_OPTIONS,
)

CALIBRATION_FIELDS: Mapping[str, str] = {
    "source": "calib",
    "field": "calib_field",
    "samples": "samples",
    "length": "seq_len",
    "seed": "seed",
}
"""Fields of a calibration, and the option for each."""


@dataclass(frozen=True)
class CalibrationOptions:
    """Values of CALIBRATION_OPTIONS."""

    calib: tuple[str, ...]
    calib_field: str | None
    samples: int
    seq_len: int
    seed: int

    def calibration(self) -> Calibration:
        """The calibration that they describe."""
        return Calibration(
            **{field: getattr(self, name) for field, name in CALIBRATION_FIELDS.items()}
        )


CALIBRATION = options.group("text", CalibrationOptions, *CALIBRATION_OPTIONS)
"""The options as one CalibrationOptions."""
