"""``phi3quant imatrix``."""

import time
from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.calibration_options import CALIBRATION, CalibrationOptions
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.run_cost import peak_memory_bytes, run_cost
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.cli.threads import use_threads
from phi3quant.run.imatrix import Written, write_imatrix
from phi3quant.source.locate import locate
from phi3quant.units import size


@dataclass(frozen=True)
class _File:
    """The file, and how to write it."""

    output: Path
    overwrite: bool
    process_output: bool
    max_memory: int | None
    revision: str | None
    adapters: tuple[str, ...]


_FILE = options.group(
    "file",
    _File,
    click.option(
        "-o", "--output", type=values.OutputFile(), required=True, help="GGUF file to write."
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing file."),
    click.option(
        "--process-output",
        is_flag=True,
        help="Include the output matrix, as llama-imatrix does with this option.",
    ),
    click.option(
        "--max-memory",
        type=values.Size(),
        help="Memory limit, such as 4GB; calibration states spill to disk above it.  "
        "[default: the available memory]",
    ),
    options.REVISION,
    options.ADAPTERS,
)


@click.command(cls=SectionedCommand)
@options.MODEL
@CALIBRATION
@_FILE
@options.RUNNING
def imatrix(model: str | None, text: CalibrationOptions, file: _File, running: Running) -> None:
    """Write the importance matrix of MODEL for llama-quantize and "export gguf --imatrix".

    \b
    phi3quant imatrix ./my-finetune -o imatrix.gguf
    phi3quant imatrix ./my-finetune --calib my-chats.jsonl -o imatrix.gguf
    phi3quant imatrix ./model --calib general --calib chat.jsonl=2 -o imatrix.gguf
    phi3quant imatrix ./Phi-3-mini-4k-instruct --adapter ./my-lora -o imatrix.gguf

    The file has the sums of squares of the inputs of every matrix, as llama-imatrix writes them.
    MODEL is a folder, a .gguf file or a hub id; the default is the bundled phi3-tiny.
    """
    quiet = running.quiet
    use_threads(running.threads)
    name = options.model_or_bundled(model, quiet=quiet)
    started = time.monotonic()
    written = write_imatrix(
        locate(name, file.revision, file.adapters),
        file.output,
        calibration=text.calibration(),
        process_output=file.process_output,
        overwrite=file.overwrite,
        max_memory=file.max_memory,
        progress=progress_bars(quiet=quiet),
        say=(lambda _line: None) if quiet else note,
    )
    seconds = time.monotonic() - started
    if running.as_json:
        print_json(_described(written, seconds))
        return
    content = written.imatrix
    echo(
        f"{written.path}: {size(written.nbytes)}, {len(content.sums)} matrices, "
        f"{content.chunks} windows of {content.chunk_tokens} tokens"
    )
    echo(f"measured {run_cost(seconds, verified=True)}")


def _described(written: Written, seconds: float) -> dict[str, object]:
    content = written.imatrix
    return {
        "file": str(written.path),
        "bytes": written.nbytes,
        "matrices": len(content.sums),
        "windows": content.chunks,
        "window_tokens": content.chunk_tokens,
        "datasets": list(content.datasets),
        "seconds": round(seconds, 2),
        "peak_memory_bytes": peak_memory_bytes(),
    }
