"""Options that choose the text for scoring."""

import click

from phi3quant.cli.options import TEXT_SOURCES, group
from phi3quant.evaluation.evaluate import EvaluationText

SCORED_TEXT = group(
    "text",
    EvaluationText,
    click.option("--text", "source", help=f"Text to score on: {TEXT_SOURCES}"),
    click.option("--text-field", "field", help="Field of each record with the text or the chat."),
    click.option(
        "--window",
        "length",
        type=click.IntRange(2),
        help="Tokens in a scored window.  [default: 512]",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(2),
        help="Score at most this many tokens.  [default: all of the text]",
    ),
)
"""--text, --text-field, --window and --max-tokens as one EvaluationText."""
