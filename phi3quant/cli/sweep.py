"""``phi3quant sweep``."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.options import Running
from phi3quant.cli.quality_gate import EXIT_MISSED
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.sweep_display import SweepDisplay, print_results
from phi3quant.cli.terminal import note, print_json
from phi3quant.cli.threads import use_threads
from phi3quant.disk.output import write_bytes
from phi3quant.errors import MissingExtraError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.run.presets import PRESETS
from phi3quant.sweep.conduct import Demands, Runner, sweep
from phi3quant.sweep.display import Display, Silent
from phi3quant.sweep.grid import Grid, grid_of, read_grid
from phi3quant.sweep.junit_report import as_junit
from phi3quant.sweep.local import run_locally
from phi3quant.sweep.page import write_page
from phi3quant.sweep.plan import Limits
from phi3quant.sweep.ray_jobs import RayRunner
from phi3quant.sweep.require import parse_requirement
from phi3quant.sweep.results import Results
from phi3quant.sweep.store import Store


@dataclass(frozen=True)
class _Jobs:
    """Models, recipes, and the folder of the results."""

    models: tuple[str, ...]
    presets: tuple[str, ...]
    output: Path
    resume: bool
    max_memory: int | None
    ray: str | None
    store: str | None


@dataclass(frozen=True)
class _Judging:
    """Demands on the results, and a file for a CI system."""

    require: tuple[str, ...]
    best_under: tuple[int, ...]
    junit: Path | None

    def demands(self) -> Demands:
        """The demands.

        Raises:
            InputError: a requirement can't be read.
        """
        return Demands(self.best_under, tuple(map(parse_requirement, self.require)))


_JOBS = options.group(
    "jobs",
    _Jobs,
    click.option(
        "--models",
        type=values.Words("model"),
        default="",
        help="Models, separated by commas, in place of those in GRID.",
    ),
    click.option(
        "--presets",
        type=values.Names("preset", PRESETS),
        default=(),
        help="Presets, separated by commas, in place of the recipes in GRID: "
        f"{', '.join(PRESETS)}.",
    ),
    click.option(
        "-o",
        "--output",
        type=values.OUTPUT,
        required=True,
        help="Folder of the sweep. Several sweeps may share one; results in it are used again.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Continue interrupted jobs after their finished blocks.",
    ),
    click.option(
        "--max-memory",
        type=values.Size(),
        help="Limit on the memory of a job, such as 4GB, or on the GPU's memory if one computes.  "
        "[default: the available memory]",
    ),
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Run the jobs on a Ray cluster (extra: cluster): its address, auto for the one of "
        "this machine, or local to start one here. --threads are the threads and CPUs of a job.  "
        "[default: jobs run one after the other]",
    ),
    click.option(
        "--store",
        metavar="ADDRESS",
        help="Address of fsspec, such as s3://bucket/sweep, that keeps the results too (extra: "
        "store, and the package of the protocol). Results that are there are used again, and the "
        "nodes of a cluster need no common folder.",
    ),
)
_JUDGING = options.group(
    "judging",
    _Judging,
    click.option(
        "--require",
        multiple=True,
        metavar="FIGURE<LIMIT",
        help="Limit on a figure of every artifact, or with --best-under of the best: "
        "ppl_increase<5%, kl<0.02, bytes<=2.2GB, bpw<=5.5 or same_top>95%. Exit code 1 if it is "
        "missed. Can be repeated.",
    ),
    click.option(
        "--best-under",
        type=values.Size(),
        multiple=True,
        help="Size, such as 2.2GB: name the artifact of each model with the lowest mean KL among "
        "those of at most this size. Can be repeated.",
    ),
    click.option("--junit", type=values.OutputFile(), help="JUnit XML file to write."),
)


@click.command("sweep")
@click.argument("grid", required=False, type=click.Path(path_type=Path))
@_JOBS
@_JUDGING
@SCORED_TEXT
@options.DEVICE
@options.RUNNING
def sweep_command(
    grid: Path | None,
    jobs: _Jobs,
    judging: _Judging,
    text: EvaluationText,
    device: str,
    running: Running,
) -> None:
    """Quantize models with many recipes, score all results and find the best.

    \b
    phi3quant sweep grid.toml -o out
    phi3quant sweep grid.toml -o out --best-under 2.2GB
    phi3quant sweep grid.toml -o out --require 'ppl_increase<5%'
    phi3quant sweep --models ./a,./b --presets phone-fast,small -o out
    phi3quant sweep grid.toml -o out --resume        after an interruption
    phi3quant sweep grid.toml -o /shared/out --ray auto --threads 8
    phi3quant sweep grid.toml -o out --store s3://bucket/sweep

    GRID is a TOML file with models and tables of choices; every combination is a job. A job whose
    result is in the folder already doesn't run again. The original is scored once a model.

    \b
    models = ["./my-finetune"]
    [[recipes]]
    method = ["awq", "gptq"]
    group-size = [32, 64, 128]
    export = "gguf"

    The folder gets report.html with plots of quality against size (extra: report), sweep.json, and
    the artifacts, each with its log.

    Exit codes: 0 all done and all requirements met; 1 a requirement was missed or a job has no
    result; 2 bad input.
    """
    demands = judging.demands()
    combined = _grid(grid, jobs, text)
    use_threads(running.threads)
    runner: Runner = run_locally if jobs.ray is None else RayRunner(jobs.ray, running.threads)
    display: Display = Silent() if running.quiet else SweepDisplay()
    store = None if jobs.store is None else Store(jobs.store)
    results = sweep(
        combined,
        jobs.output,
        Limits(device, jobs.max_memory),
        demands=demands,
        resume=jobs.resume,
        runner=runner,
        display=display,
        store=store,
    )
    _write(results, judging, quiet=running.quiet)
    if store is not None:
        for path in (results.folder.results, results.folder.page):
            if path.is_file():
                store.replace_file(results.folder, path)
    if running.as_json:
        print_json(results.as_json())
    else:
        print_results(results)
    if not results.passed:
        raise click.exceptions.Exit(EXIT_MISSED)


def _grid(path: Path | None, jobs: _Jobs, text: EvaluationText) -> Grid:
    if path is None and not (jobs.models and jobs.presets):
        raise click.UsageError("Pass a GRID, or both --models and --presets.")
    grid = (
        grid_of(jobs.models, jobs.presets)
        if path is None
        else read_grid(path, jobs.models, jobs.presets)
    )
    entered = {field.name: getattr(text, field.name) for field in fields(text)}
    changes = {name: value for name, value in entered.items() if value is not None}
    return replace(grid, text=replace(grid.text, **changes))


def _write(results: Results, judging: _Judging, *, quiet: bool) -> None:
    if judging.junit:
        write_bytes(judging.junit, as_junit(results).encode())
    if not results.news and results.folder.page.exists():
        return
    try:
        page = write_page(results)
    except MissingExtraError as error:
        note(f"note: no report.html: {error}")
    else:
        if not quiet:
            note(f"{page}: open it in a browser")
