"""``phi3quant awq``, ``phi3quant gptq`` and ``phi3quant rtn``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import OnnxLayout, Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.quality_gate import MAX_INCREASE, end_if_missed
from phi3quant.cli.quantize_report import print_run
from phi3quant.cli.recipes import RECIPE, RecipeOptions, recipe_of
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import note
from phi3quant.cli.threads import use_threads
from phi3quant.cluster.ray_teams import ray_teams
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.model.device import find_device
from phi3quant.run.assignment import Teams
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.teams import check_shareable
from phi3quant.run.verification import Verification
from phi3quant.source.locate import Located, locate


@dataclass(frozen=True)
class RunOptions:
    """Options of awq, gptq and rtn that don't change the weights."""

    output: Path | None
    overwrite: bool
    resume: bool
    max_memory: int | None
    no_verify: bool
    max_ppl_increase: float | None
    revision: str | None
    adapters: tuple[str, ...]
    device: str
    ray: str | None
    workers: int | None


_RUN = options.group(
    "run",
    RunOptions,
    click.option(
        "-o",
        "--output",
        type=values.OUTPUT,
        help="Folder to create.  [default: MODEL-METHOD-BITSbit in the current folder; with TYPE "
        "instead of BITSbit for --gguf-type, and BPWbpw for --target-bpw]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an output that phi3quant created."),
    click.option(
        "--resume",
        is_flag=True,
        help="Continue an interrupted run of the same command after its finished blocks.",
    ),
    click.option(
        "--max-memory",
        type=values.Size(),
        help="Limit on memory, such as 4GB, or on the GPU's memory if one computes; calibration "
        "states are kept elsewhere above it.  [default: the available memory]",
    ),
    options.DEVICE,
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Share the calibration with the nodes of a Ray cluster (extra: cluster): its address, "
        "auto for the one of this machine, or local to start one here. --threads are the threads "
        "and CPUs of a worker.  [default: this process does all]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Number of processes that share the work with --ray, this one included.  [default: "
        "one on each node]",
    ),
    click.option("--no-verify", is_flag=True, help="Don't score the result."),
    MAX_INCREASE,
    options.REVISION,
    options.ADAPTERS,
)


@dataclass(frozen=True)
class Request:
    """Arguments of awq, gptq and rtn.

    Attributes:
        model: MODEL; None for the bundled one.
        wanted: options that decide the weights.
        layout: options of ONNX.
        run: options of the run.
        text: text to score on.
        running: options that all commands share.
    """

    model: str | None
    wanted: RecipeOptions
    layout: OnnxLayout
    run: RunOptions
    text: EvaluationText
    running: Running


def _quantizing(command: Callable[[Request], None]) -> Callable[..., None]:
    """Add the options that awq, gptq and rtn share, and gather their values in a Request."""

    @wraps(command)
    def gathered(
        model: str | None,
        wanted: RecipeOptions,
        layout: OnnxLayout,
        run: RunOptions,
        text: EvaluationText,
        running: Running,
    ) -> None:
        command(Request(model, wanted, layout, run, text, running))

    groups = (RECIPE, options.ONNX_LAYOUT, _RUN, SCORED_TEXT, options.RUNNING)
    with_options: Callable[..., None] = gathered
    for group in reversed(groups):
        with_options = group(with_options)
    return options.MODEL(with_options)


@click.command(cls=SectionedCommand)
@_quantizing
def awq(request: Request) -> None:
    """Quantize MODEL with activation-aware scaling (AWQ) and verify the result.

    Calibrates on text, scales the channels that matter most, lets later weights make up for
    rounding errors (GPTQ), and scores the result against MODEL.

    \b
    phi3quant awq --bits 4
    phi3quant awq ./Phi-3-mini-4k-instruct -o phi3-4bit
    phi3quant awq ./my-finetune -o out --preset phone-fast
    phi3quant awq ./my-finetune -o out --export gguf --gguf-type q4_k_m
    phi3quant awq ./my-finetune -o out --export compressed-tensors,gguf,onnx
    phi3quant awq ./my-finetune -o out --asym --group-size 64 --calib train.jsonl
    phi3quant awq ./my-finetune -o out --calib general --calib chats.jsonl=2
    phi3quant awq ./my-finetune -o out --export gguf --target-bpw 5.2
    phi3quant awq ./my-finetune -o out --export mlx --target-bpw 5.5
    phi3quant awq ./my-finetune -o out --tensor-type down_proj=int8
    phi3quant awq ./my-finetune -o out --tune --calib general --calib self:128
    phi3quant awq ./my-finetune -o out --max-memory 4GB
    phi3quant awq ./Phi-3-mini-4k-instruct -o out --adapter ./my-lora
    phi3quant awq ./my-finetune -o out --ray auto --threads 8
    phi3quant awq ./my-finetune -o out --resume              after an interruption
    phi3quant awq ./my-finetune -o out --max-ppl-increase 8% exit code 1 if worse

    MODEL is a folder or a hub id; the default is the bundled phi3-tiny.
    """
    _run("awq", request)


@click.command(cls=SectionedCommand)
@_quantizing
def gptq(request: Request) -> None:
    """Quantize MODEL with error compensation alone (GPTQ) and verify the result.

    Norms and channel order stay unchanged. awq also scales channels and usually loses less.

    \b
    phi3quant gptq ./Phi-3-mini-4k-instruct -o phi3-gptq
    phi3quant gptq ./my-finetune -o out --asym --group-size 128

    MODEL is a folder or a hub id; the default is the bundled phi3-tiny.
    """
    _run("gptq", request)


@click.command(cls=SectionedCommand)
@_quantizing
def rtn(request: Request) -> None:
    """Quantize MODEL by rounding to nearest (RTN), without calibration, and verify the result.

    Accepts the calibration options of awq and gptq and ignores them.

    \b
    phi3quant rtn ./Phi-3-mini-4k-instruct -o phi3-rtn
    phi3quant rtn ./my-finetune -o out --bits 8 --group-size row

    MODEL is a folder or a hub id; the default is the bundled phi3-tiny.
    """
    _run("rtn", request)


def _run(method: str, request: Request) -> None:
    run, running = request.run, request.running
    recipe = recipe_of(method, request.wanted, request.layout)
    if run.no_verify and run.max_ppl_increase is not None:
        raise click.UsageError(
            "--max-ppl-increase needs the verification, which --no-verify leaves out."
        )
    quiet = running.quiet
    use_threads(running.threads)
    name = options.model_or_bundled(request.model, quiet=quiet)
    model = locate(name, run.revision, run.adapters)
    output = run.output or Path(_default_name(model, recipe))
    progress = progress_bars(quiet=quiet)
    judge = None if run.no_verify else Verification(request.text, progress, run.device)
    started = time.monotonic()
    say = _silent if quiet else note
    with _teams(run, recipe, running.threads) as teams:
        conduct = Conduct(run.resume, run.max_memory, say, judge, run.device, teams=teams)
        artifacts = quantize(
            model, output, recipe, overwrite=run.overwrite, progress=progress, conduct=conduct
        )
    seconds = time.monotonic() - started
    evaluation = judge.evaluation if judge else None
    print_run(artifacts, recipe, seconds, evaluation, running)
    if evaluation is not None:
        end_if_missed(evaluation, run.max_ppl_increase, quiet=quiet)


@contextmanager
def _teams(run: RunOptions, recipe: Recipe, threads: int | None) -> Iterator[Teams | None]:
    """Teams on a cluster, if there is an address of one."""
    if run.ray is None:
        if run.workers is not None:
            raise click.UsageError("--workers needs --ray.")
        yield None
        return
    check_shareable(recipe, find_device(run.device))
    with ray_teams(run.ray, run.workers, threads) as teams:
        yield teams


def _silent(_line: str) -> None:
    """Leave a note out."""


def _default_name(model: Located, recipe: Recipe) -> str:
    """Name of the output folder: model, method and type."""
    name = model.name.split("/")[-1]
    if recipe.target_bpw is not None:
        kind = f"{recipe.target_bpw:g}bpw"
    else:
        kind = recipe.gguf_type.lower() if recipe.gguf_type else f"{recipe.scheme.bits}bit"
    return f"{name}-{recipe.method}-{kind}"
