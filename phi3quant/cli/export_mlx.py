"""``phi3quant export mlx``."""

from pathlib import Path

import click

from converters.packed import mlx as layout
from converters.packed.mlx_options import MlxOptions
from phi3quant.cli import options
from phi3quant.cli.export_run import Target, run_export, target_options
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import Running
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export import export_packed
from phi3quant.source.locate import Located


@click.command(cls=SectionedCommand, short_help="Write an MLX folder for Macs and iPhones.")
@options.MODEL
@options.MLX_OUTER
@target_options("MODEL-mlx")
@SCORED_TEXT
@options.RUNNING
def mlx(
    model: str | None,
    outer: MlxOptions,
    target: Target,
    text: EvaluationText,
    running: Running,
) -> None:
    """Write MODEL, which must be quantized, for mlx-lm and mlx-swift, and score it.

    \b
    phi3quant export mlx phi3-4bit
    phi3quant export mlx ./their-gptq -o out
    phi3quant export mlx phi3-4bit --embedding int4 -o out

    Codes, scales and zero points stay the same; codes that MLX can't hold are refused, or rounded
    to int4 in groups of 32 by --requantize. MODEL is a model of any format or a hub id.
    """

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_packed(
            model,
            output,
            layout=layout.LAYOUT.name,
            mlx_options=outer,
            requantize=target.requantize,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    run_export(write, model, layout.LAYOUT.name, target, text, running)
