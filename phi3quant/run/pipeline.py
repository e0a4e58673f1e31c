"""Pipeline from a checkpoint to quantized folders: plan, run, seal."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.format import ModelWriter
from phi3quant import freed_memory
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.workspace import Workspace
from phi3quant.errors import OutputError, SchemeError, require
from phi3quant.model.device import CPU, computing_on, device_name
from phi3quant.model.weights import OnDevice
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.assignment import Assignment
from phi3quant.run.blocks import Work, quantize_blocks
from phi3quant.run.calibration_windows import CalibrationWindows
from phi3quant.run.conduct import Conduct
from phi3quant.run.draft import Draft, draft_of, publish
from phi3quant.run.ends import Ends
from phi3quant.run.journal import Journal, open_journal, prepare
from phi3quant.run.quantize_plan import Plan, planned
from phi3quant.run.recipe import Recipe
from phi3quant.run.resumable_tuning import tuned
from phi3quant.run.target_size import with_types
from phi3quant.run.teams import quantize_in_teams
from phi3quant.run.tuning_cost import room_for
from phi3quant.run.tuning_windows import TuningWindows, tuning_windows
from phi3quant.source.locate import Model, locate


@dataclass(frozen=True)
class _Outcome:
    """Draft with complete weights.

    Attributes:
        draft: draft that is complete except for its manifests.
        recipe: recipe with all types chosen.
        blocks: report of errors for each block.
        tuning: result of tuning as JSON values; None without it.
        hashed: entries of files that were hashed while they were written, by format.
    """

    draft: Draft
    recipe: Recipe
    blocks: Sequence[Mapping[str, Any]]
    tuning: Mapping[str, Any] | None
    hashed: Mapping[str, Mapping[str, Mapping[str, Any]]]


def quantize(
    model: Model,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    conduct: Conduct | None = None,
) -> Artifacts:
    """Quantize a checkpoint into a new folder, one block in memory at a time.

    With a method that calibrates, finished blocks are kept next to ``output`` until it is complete.
    An exception that ends such a run has a note on how to resume.

    Args:
        model: folder, hub id, or None for the bundled phi3-tiny.
        output: folder to create; it appears when everything in it is complete.
        recipe: method, scheme, formats and calibration; None for AWQ with its defaults.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created.
        progress: display of the stages.
        conduct: resuming, memory limit and verification; None for the defaults.

    Returns:
        Folders of the artifacts, and errors of each block.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.

    Examples:
        >>> import tempfile
        >>> from phi3quant import QuantScheme
        >>> recipe = Recipe("rtn", QuantScheme(bits=4, group_size=64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifacts = quantize("phi3-tiny", Path(folder) / "out", recipe)
        ...     (artifacts.folders["compressed-tensors"] / "model.safetensors").is_file()
        True
    """
    require(OutputError, "output", output, str, Path)
    require(SchemeError, "recipe", recipe, Recipe, None)
    plan = planned(
        locate(model, revision),
        Path(output),
        recipe or Recipe(),
        conduct or Conduct(),
        progress,
        overwrite=overwrite,
    )
    with (
        open_journal(plan.output, overwrite=overwrite) as (workspace, journal),
        ThreadPoolExecutor(1) as aside,
    ):
        if not (plan.resumes or overwrite):
            journal.refuse_to_forget()
        text = _calibration(plan)
        # Hashing reads the same files as the quantization, and uses only one thread.
        source = aside.submit(plan.conduct.shared.described, plan.source.located, plan.files)
        outcome = _run(plan, text, source, workspace, journal)
        calibration = text.description if text else None
        _seal(plan, outcome, calibration, source.result(), workspace)
    return Artifacts(
        plan.source.located, outcome.draft.places, calibration, outcome.blocks, outcome.tuning
    )


def _calibration(plan: Plan) -> CalibrationWindows | None:
    if not plan.method.calibrated:
        return None
    return plan.conduct.shared.windows(
        *(plan.source, plan.recipe.calibration),
        plan.writing,
        tuned=None if plan.recipe.tuning is None else plan.recipe.tuning.windows,
    )


def _run(
    plan: Plan,
    text: CalibrationWindows | None,
    source: Future[dict[str, Any]],
    workspace: Workspace,
    journal: Journal,
) -> _Outcome:
    """Quantize all blocks and write them."""
    plan = _with_types(plan, text)
    config, recipe = plan.source.config, plan.recipe
    tuned_on = _tuned_on(plan, text)
    if text is not None:
        with plan.progress("hashing the source", 1) as step:
            described = source.result()
            step()
        calibration = {"recipe": recipe.as_json(config), "calibration": text.description}
        if tuned_on is not None:
            calibration["tuning"] = tuned_on.description
        prepare(journal, plan.conduct, {**calibration, **described}, plan.device)
    elif plan.conduct.resume:
        plan.conduct.say(f"{plan.method.title} is too quick to keep blocks; starting at the first")
    work = Work(
        plan.method,
        recipe.codecs(config),
        recipe.compensate,
        text.ids if text else None,
        plan.device,
        plan.room.place,
        recipe.head_codec(config),
    )
    draft = draft_of(workspace, plan.source, [entry.name for entry in plan.formats])
    schemes = recipe.schemes(config)
    with ExitStack() as open_writers:
        writers = {
            entry.name: open_writers.enter_context(
                completed(entry.open(draft.folders[entry.name], plan.source, schemes))
            )
            for entry in plan.formats
        }
        with computing_on(plan.device, plan.conduct.max_memory):
            blocks, tuning = _blocks(plan, work, list(writers.values()), tuned_on, journal)
    hashed = {name: writer.hashed for name, writer in writers.items()}
    return _Outcome(draft, recipe, blocks, tuning, hashed)


def _tuned_on(plan: Plan, text: CalibrationWindows | None) -> TuningWindows | None:
    """Windows to tune on, if the recipe tunes."""
    settings, source = plan.recipe.tuning, plan.source
    if settings is None or text is None:
        return None
    return tuning_windows(source, plan.recipe.calibration, text, settings.windows, plan.writing)


def _blocks(
    plan: Plan,
    work: Work,
    writers: Sequence[ModelWriter],
    tuned_on: TuningWindows | None,
    journal: Journal,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Quantize all blocks, tune them if the recipe does, and write them.

    Returns:
        Report of each block, and the result of tuning as JSON values.
    """
    checkpoint, settings, progress = plan.source.model, plan.recipe.tuning, plan.progress
    config = checkpoint.config
    if settings is None or tuned_on is None:
        return _quantize_all(plan, work, writers, journal), None
    # Refuses too little memory before the blocks are quantized.
    room = room_for(config, tuned_on.windows, settings, plan.device, plan.conduct)
    ends = Ends()
    blocks = _quantize_all(plan, work, [ends], journal)
    parts = ends.parts(journal, config, work.codecs)
    result = tuned(checkpoint, parts, tuned_on, settings, room, journal, progress)
    ends.write(config, result.parts(parts), writers, progress)
    return blocks, {**tuned_on.description, **result.as_json()}


def _quantize_all(
    plan: Plan, work: Work, writers: Sequence[ModelWriter], journal: Journal
) -> list[dict[str, Any]]:
    """Quantize all blocks, here or in teams; returns the report of each."""
    model, conduct, progress = plan.source.model, plan.conduct, plan.progress
    with freed_memory.kept(keep=plan.room.keeps_freed):
        if conduct.teams is not None and work.ids is not None:
            assignment = Assignment(plan.source.located, plan.recipe, work.ids)
            return quantize_in_teams(
                conduct.teams, assignment, model, work, writers, progress, journal, conduct.say
            )
        kept = journal if plan.method.calibrated else None
        return quantize_blocks(model, work, writers, progress, kept)


def _with_types(plan: Plan, text: CalibrationWindows | None) -> Plan:
    """Choose every matrix' type by measured loss, if the recipe has a target size."""
    if plan.recipe.target_bpw is None:
        return plan
    assert text is not None
    # MPS lacks FP64.
    model = OnDevice(plan.source.model, CPU if plan.device.type == "mps" else plan.device)
    with computing_on(plan.device, plan.conduct.max_memory):
        recipe = with_types(plan.recipe, plan.formats, model, text.ids, plan.progress)
    return replace(plan, recipe=recipe, formats=recipe.open_formats())


def _seal(
    plan: Plan,
    outcome: _Outcome,
    calibration: Mapping[str, Any] | None,
    source: Mapping[str, Any],
    workspace: Workspace,
) -> None:
    """Describe a finished draft, have it verified, and publish it."""
    stated = outcome.recipe.as_json(plan.source.config)
    tuning = {} if outcome.tuning is None else {"tuning": outcome.tuning}
    # The CPU's results don't depend on its model, so that manifests don't mention it.
    device = {} if plan.device.type == "cpu" else {"device": device_name(plan.device)}
    described = {
        name: manifest.describe(name, source, stated, calibration, outcome.blocks) | tuning | device
        for name in outcome.draft.folders
    }
    manifest.check_unchanged(plan.stamps)
    publish(workspace, outcome.draft, described, outcome.hashed, plan.conduct.judge)
