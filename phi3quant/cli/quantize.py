"""``phi3quant awq``, ``phi3quant gptq`` and ``phi3quant rtn``."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from converters import FORMATS
from converters.gguf import writer as gguf_writer
from converters.gguf.type_policy import FILE_TYPES
from phi3quant.cli import options
from phi3quant.cli.display import (
    note_phones,
    peak_memory_bytes,
    print_evaluation,
    progress_bars,
    use_threads,
)
from phi3quant.cli.recipes import PRESET_OPTIONS, recipe_of
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.evaluation.evaluate import Evaluation, EvaluationText
from phi3quant.gating.gate import Gate, Verdict
from phi3quant.quant.methods import METHODS
from phi3quant.quant.scheme import GROUP_SIZES, WHOLE_ROW
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.verification import Verification
from phi3quant.source.locate import locate

EXIT_MISSED = 1

_SCHEME = (
    click.option("--bits", type=int, default=4, show_default=True, help="Bits of a code: 4 or 8."),
    click.option(
        "--group-size",
        type=options.GroupSize(),
        default="32",
        show_default=True,
        help=f"Weights that share a scale: {', '.join(map(str, GROUP_SIZES))} or {WHOLE_ROW}.",
    ),
    click.option(
        "--sym/--asym",
        "symmetric",
        default=True,
        show_default=True,
        help="Codes around a fixed middle, or with a zero point for each group.",
    ),
)
_CALIBRATION = (
    click.option(
        "--calib",
        help="Text to calibrate on: a .txt, .md, .jsonl or .parquet file or a folder of them, "
        "hf:DATASET, or general or tiny (bundled).  [default: the bundled one that suits the "
        "model]",
    ),
    click.option("--calib-field", help="Field of each record that holds the text or messages."),
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Calibration windows; 128 with a preset.",
    ),
    click.option(
        "--seq-len",
        type=click.IntRange(2),
        default=512,
        show_default=True,
        help="Tokens in a calibration window.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Choice of the windows."),
    click.option(
        "--compensate/--no-compensate",
        default=True,
        show_default=True,
        help="Let weights make up for the errors of those before them, in their row (GPTQ) and in "
        "the blocks before, where that lowers a block's error on held-back windows.",
    ),
)
_OUTPUT = (
    click.option(
        "--gguf-type",
        help="With --export gguf, in place of --bits, --group-size and --sym or --asym: "
        f"{', '.join(FILE_TYPES)}, in any case.",
    ),
    options.tensor_type,
    options.onnx_layout,
    click.option(
        "--export",
        "formats",
        default=next(iter(FORMATS)),
        show_default=True,
        help=f"Formats, comma-separated: {', '.join(FORMATS)}. The first is OUT itself, "
        "further ones are folders in it.",
    ),
    click.option(
        "-o",
        "--output",
        type=options.OUTPUT_TYPE,
        help="Folder to make.  [default: MODEL-METHOD-BITSbit in the current folder; with TYPE in "
        "place of BITSbit for --gguf-type, and BPWbpw for --target-bpw]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace OUT if phi3quant made it."),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on after the blocks that an interrupted run of the same command finished.",
    ),
    click.option(
        "--max-memory",
        type=options.Size(),
        help="Stay below so many bytes, such as 4GiB: what has no room there waits on disk.  "
        "[default: what is available]",
    ),
    click.option("--no-verify", is_flag=True, help="Don't score the result."),
    click.option(
        "--max-ppl-increase",
        type=options.Percent(),
        help="Exit with code 1 if perplexity is surely worse (the 95 % interval lies above 1) and "
        "the estimate grew by more, such as 8% or 0.08; with code 3 if the text is too short to "
        "show such an increase. The rule of phi3quant check.",
    ),
)


def _apply(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_MODEL = click.argument("model", required=False)


@click.command()
@_apply(
    _MODEL,
    *PRESET_OPTIONS,
    *_SCHEME,
    *_CALIBRATION,
    *_OUTPUT,
    options.evaluation_text,
    options.common,
)
def awq(**given: Any) -> None:
    """Quantize MODEL with activation-aware scaling (AWQ), calibrated on text, and verify it.

    \b
    phi3quant awq --bits 4
    phi3quant awq ./Phi-3-mini-4k-instruct -o phi3-4bit
    phi3quant awq ./my-finetune -o out --asym --group-size 64 --calib train.jsonl
    phi3quant awq ./my-finetune -o out --export compressed-tensors,awq-gemm
    phi3quant awq ./my-finetune -o out --export gguf --gguf-type q4_k_m
    phi3quant awq ./my-finetune -o out --export compressed-tensors,gguf,onnx
    phi3quant awq ./my-finetune -o out --preset phone-fast
    phi3quant awq ./my-finetune -o out --export gguf --target-bpw 5.2
    phi3quant awq ./my-finetune -o out --max-memory 4GiB
    phi3quant awq ./my-finetune -o out --resume                  (after an interruption)
    phi3quant awq ./my-finetune -o out --max-ppl-increase 8%     (for CI: exit code 1 if worse)

    MODEL is a folder or a hub id; left out, it is the bundled phi3-tiny.
    """
    _run("awq", given)


@click.command()
@_apply(
    _MODEL,
    *PRESET_OPTIONS,
    *_SCHEME,
    *_CALIBRATION,
    *_OUTPUT,
    options.evaluation_text,
    options.common,
)
def gptq(**given: Any) -> None:
    """Quantize MODEL by error compensation (GPTQ) alone, calibrated on text, and verify it.

    Norms and the order of channels stay as they are; awq does the same on scaled channels, and
    better.

    \b
    phi3quant gptq ./Phi-3-mini-4k-instruct -o phi3-gptq
    phi3quant gptq ./my-finetune -o out --asym --group-size 128

    MODEL is a folder or a hub id; left out, it is the bundled phi3-tiny.
    """
    _run("gptq", given)


@click.command()
@_apply(
    _MODEL,
    *PRESET_OPTIONS,
    *_SCHEME,
    *_CALIBRATION,
    *_OUTPUT,
    options.evaluation_text,
    options.common,
)
def rtn(**given: Any) -> None:
    """Quantize MODEL by rounding to nearest (RTN), without calibration, and verify it.

    The calibration options are accepted, so that rtn, awq and gptq take the same line, and ignored.

    \b
    phi3quant rtn ./Phi-3-mini-4k-instruct -o phi3-rtn
    phi3quant rtn ./my-finetune -o out --bits 8 --group-size row

    MODEL is a folder or a hub id; left out, it is the bundled phi3-tiny.
    """
    _run("rtn", given)


def _run(method: str, given: dict[str, Any]) -> None:
    if given["no_verify"] and given["max_ppl_increase"] is not None:
        raise click.UsageError("--max-ppl-increase needs the verification that --no-verify drops")
    quiet = given["quiet"]
    use_threads(given["threads"])
    model = options.note_bundled(given["model"], quiet=quiet)
    recipe = recipe_of(method, given)
    output = given["output"] or Path(f"{_name(model, given)}-{method}-{_ending(recipe)}")
    progress = progress_bars(quiet=quiet)
    judge = None if given["no_verify"] else Verification(_text(given), progress)
    started = time.monotonic()
    made = quantize(
        model,
        output,
        recipe,
        revision=given["revision"],
        overwrite=given["overwrite"],
        progress=progress,
        conduct=Conduct(given["resume"], given["max_memory"], _note_on(quiet=quiet), judge),
    )
    seconds = time.monotonic() - started
    evaluation = judge.evaluation if judge else None
    _report(made, recipe, seconds, evaluation, given)
    _gate(evaluation, given["max_ppl_increase"], quiet=quiet)


def _note_on(*, quiet: bool) -> Callable[[str], None]:
    """What tells a person something on stderr."""

    def say(line: str) -> None:
        if not quiet:
            note(line)

    return say


def _name(model: str, given: dict[str, Any]) -> str:
    return locate(model, given["revision"]).name.split("/")[-1]


def _text(given: dict[str, Any]) -> EvaluationText:
    return EvaluationText(given["text"], given["text_field"], given["window"], given["max_tokens"])


def _ending(recipe: Recipe) -> str:
    """The recipe in the name of a folder."""
    if recipe.target_bpw is not None:
        return f"{recipe.target_bpw:g}bpw"
    return recipe.gguf_type.lower() if recipe.gguf_type else f"{recipe.scheme.bits}bit"


def _report(
    made: Artifacts,
    recipe: Recipe,
    seconds: float,
    evaluation: Evaluation | None,
    given: dict[str, Any],
) -> None:
    fell_back = sum(bool(block.get("fell_back_to_rtn")) for block in made.blocks)
    if given["as_json"]:
        print_json(
            {
                "folders": {name: str(folder) for name, folder in made.folders.items()},
                "method": recipe.method,
                "scheme": str(recipe),
                "calibration": made.calibration,
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "blocks": list(made.blocks),
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        return
    if evaluation is not None:
        print_evaluation(evaluation)
    for name, folder in made.folders.items():
        echo(f"{folder}: {METHODS[recipe.method].title} {recipe}, {name}")
    if gguf_writer.FORMAT.name in made.folders:
        note_phones(made.folders[gguf_writer.FORMAT.name], quiet=given["quiet"])
    if made.calibration is not None:
        echo(_calibrated_on(made.calibration, recipe.calibration.samples))
    if fell_back:
        echo(f"{fell_back} of {len(made.blocks)} blocks fell back to RTN")
    for line in _degenerate(made.blocks):
        echo(line)
    echo(
        f"quantized in {seconds:.1f} s, peak memory {peak_memory_bytes() / 1e9:.2f} GB"
        f"{'' if evaluation else '; not verified'}"
    )


def _degenerate(blocks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Matrices whose inputs calibration learned nothing from."""
    for index, block in enumerate(blocks):
        if block.get("degenerate"):
            names = ", ".join(block["degenerate"])
            yield (
                f"warning: in block {index}, the inputs of {names} were zero or overflowed on the "
                "calibration text; errors were compensated without their statistics"
            )


def _calibrated_on(calibration: Mapping[str, Any], asked: int) -> str:
    windows = calibration["windows"]
    line = f"calibrated on {windows} windows of {calibration['window_tokens']} tokens"
    shortage = f", all that there are ({asked} were asked for)" if windows < asked else ""
    return f"{line} from {calibration['text']}{shortage}"


def _gate(evaluation: Evaluation | None, limit: float | None, *, quiet: bool) -> None:
    """Exit with 1 if an artifact is broken or worse than allowed, with 3 if the text can't tell."""
    if evaluation is None:
        return
    verdicts = {Verdict.PASS}
    for name, comparison in zip(evaluation.names[1:], evaluation.comparisons[1:], strict=True):
        if comparison.candidate.not_finite:
            note(f"FAIL: {name} gives NaN or infinity")
            verdicts.add(Verdict.FAIL)
        elif limit is not None:
            gate = Gate("budget", "full precision", limit, comparison.paired)
            verdicts.add(gate.verdict)
            if gate.verdict is not Verdict.PASS or not quiet:
                note(f"{_WORDS[gate.verdict]}: {name}: {gate}")
    if Verdict.FAIL in verdicts:
        raise click.exceptions.Exit(EXIT_MISSED)
    if Verdict.UNDERPOWERED in verdicts:
        raise click.exceptions.Exit(options.EXIT_NOT_COMPARABLE)


_WORDS = {Verdict.PASS: "PASS", Verdict.FAIL: "FAIL", Verdict.UNDERPOWERED: "TOO LITTLE TEXT"}
