"""Options of tuning."""

import click

from phi3quant.tuning.settings import TuningSettings

_DEFAULT = TuningSettings()

AMOUNT = (
    click.option(
        "--tune-windows",
        type=click.IntRange(1),
        default=_DEFAULT.windows,
        show_default=True,
        help="Largest number of windows to tune on.",
    ),
    click.option(
        "--tune-passes",
        type=click.IntRange(1),
        default=_DEFAULT.passes,
        show_default=True,
        help="Number of times that tuning sees each window.",
    ),
)

TUNING_OPTIONS = (
    click.option(
        "--tune/--no-tune",
        default=False,
        show_default=True,
        help="Train scales and norms after calibration, so that predictions get closer to "
        "MODEL's. Codes and sizes stay the same. On a CPU it takes many times as long as "
        "calibration; a run prints its forecast.",
    ),
    *AMOUNT,
)
