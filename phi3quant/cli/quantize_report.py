"""Results of a quantizing run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converters.gguf import writer as gguf_writer
from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.layout import print_text
from phi3quant.cli.options import Running
from phi3quant.cli.run_cost import peak_memory_bytes, run_cost
from phi3quant.cli.terminal import echo, print_json
from phi3quant.cli.tuning_display import print_tuning
from phi3quant.cli.written_files import note_next_steps, note_slow_type, print_files
from phi3quant.evaluation.evaluate import Evaluation
from phi3quant.quant.methods import METHODS
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.calibration_windows import names_of
from phi3quant.run.recipe import Recipe
from phi3quant.units import count


def print_run(
    artifacts: Artifacts,
    recipe: Recipe,
    seconds: float,
    evaluation: Evaluation | None,
    running: Running,
) -> None:
    """Print scores, files, notes on the blocks, and the next step.

    Args:
        artifacts: the output.
        recipe: of the run.
        seconds: that it took.
        evaluation: None if the result wasn't scored.
        running: how to print.
    """
    if running.as_json:
        print_json(
            {
                "folders": {name: str(folder) for name, folder in artifacts.folders.items()},
                "method": recipe.method,
                "scheme": str(recipe),
                "calibration": artifacts.calibration,
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "blocks": list(artifacts.blocks),
                **({"tuning": dict(artifacts.tuning)} if artifacts.tuning else {}),
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        return
    if evaluation is not None:
        print_evaluation(evaluation)
        echo()
    for name, folder in artifacts.folders.items():
        print_files(f"{METHODS[recipe.method].title} {recipe}, {name}", folder)
    if artifacts.calibration is not None:
        print_text(_calibrated_on(artifacts.calibration, recipe.calibration.samples))
    if artifacts.tuning is not None:
        print_tuning(artifacts.tuning)
    for line in _notes_on(artifacts.blocks):
        print_text(line)
    echo(f"quantized {run_cost(seconds, verified=evaluation is not None)}")
    if not running.quiet:
        if gguf_writer.FORMAT.name in artifacts.folders:
            note_slow_type(artifacts.folders[gguf_writer.FORMAT.name])
        note_next_steps(artifacts.folders, recipe.possible_schemes)


def _calibrated_on(calibration: Mapping[str, Any], samples: int) -> str:
    windows, names = int(calibration["windows"]), names_of(calibration)
    line = (
        f"calibrated on {count(windows, 'window')} of {calibration['window_tokens']} tokens "
        f"from {', '.join(names)}"
    )
    have = "has" if len(names) == 1 else "have"
    return f"{line}, which {have} no more (--samples {samples})" if windows < samples else line


def _notes_on(blocks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Blocks that were only rounded, and matrices without usable statistics."""
    fell_back = sum(bool(block.get("fell_back_to_rtn")) for block in blocks)
    if fell_back:
        yield f"{fell_back} of {count(len(blocks), 'block')} fell back to RTN"
    for index, block in enumerate(blocks):
        if block.get("degenerate"):
            names = ", ".join(block["degenerate"])
            yield (
                f"warning: in block {index}, the inputs of {names} were zero or overflowed on the "
                "calibration text; errors were compensated without their statistics"
            )
