"""``phi3quant audit``."""

from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.auditing.audit import audit as make_audit
from phi3quant.auditing.grade import Grade
from phi3quant.cli import options, values
from phi3quant.cli.audit_display import headline, print_audit
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.terminal import note, print_json
from phi3quant.cli.threads import use_threads

EXIT_BELOW = 1


@dataclass(frozen=True)
class _Auditing:
    """Options of an audit."""

    baseline: Path | None
    ask: bool
    required: str | None


_AUDITING = options.group(
    "auditing",
    _Auditing,
    click.option(
        "--baseline",
        type=values.OUTPUT,
        help="Earlier recording, from baseline create: weights that changed under the same name "
        "are a contradiction.",
    ),
    click.option(
        "--ask", is_flag=True, help="Let the model answer who it is, in its own chat template."
    ),
    click.option(
        "--require",
        "required",
        type=values.Name("grade", [grade.value for grade in Grade]),
        help="Lowest grade that passes, A to F; exit code 1 below it.",
    ),
)


@click.command()
@click.argument("model", required=False)
@_AUDITING
@options.REVISION
@options.RUNNING
def audit(model: str | None, auditing: _Auditing, revision: str | None, running: Running) -> None:
    """Grade MODEL's integrity by ten criteria, each from evidence in its files.

    \b
    phi3quant audit ./my-finetune
    phi3quant audit model-Q4_K_M.gguf --require B
    phi3quant audit ./phi3-4bit --baseline phi3-4bit.baseline --ask --json

    MODEL is a folder (a checkpoint, quantized or ONNX), a .gguf file, or a hub id; the default is
    the bundled phi3-tiny. Its card (README.md), licence, metadata and manifest are compared with
    its weights, tokenizer and hashes.

    A criterion is shown (+), contradicted (!), not shown (?) or partly shown. A: nothing is
    contradicted, and 80 % of the evidence is there. B: nothing is contradicted. C, D and F: up to
    a fifth, up to two fifths, or more of the criteria with evidence are contradicted.

    Exit codes: 0 done, 1 below --require, 2 bad input, 3 a damaged baseline.
    """
    use_threads(running.threads)
    result = make_audit(
        options.model_or_bundled(model, quiet=running.quiet),
        revision=revision,
        baseline=auditing.baseline,
        ask=auditing.ask,
        progress=progress_bars(quiet=running.quiet),
    )
    if running.as_json:
        print_json(result.as_json())
    else:
        print_audit(result)
    if auditing.required and not result.grade.meets(Grade(auditing.required)):
        note(f"FAIL: {headline(result)}; {auditing.required} is required")
        raise click.exceptions.Exit(EXIT_BELOW)
