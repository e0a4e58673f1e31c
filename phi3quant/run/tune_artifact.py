"""Tuning of a finished artifact against the model that it was quantized from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from phi3quant.errors import NotComparableError
from phi3quant.model.device import computing_on, device_name, find_device
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.calibration import Calibration
from phi3quant.run.conduct import Conduct
from phi3quant.run.export_run import check_export, publish_export
from phi3quant.run.export_source import ExportSource, open_source
from phi3quant.run.journal import open_journal, prepare
from phi3quant.run.resumable_tuning import tuned
from phi3quant.run.same_format import as_stored, same_format
from phi3quant.run.shared_work import files_of
from phi3quant.run.tuning_cost import room_for
from phi3quant.run.tuning_windows import TuningWindows, tuning_windows
from phi3quant.run.written_windows import Writing
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.tuning.settings import TuningSettings

# Sizes in the configuration that decide the shapes of a model's tensors and heads.
_SIZES = (
    *("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads"),
)


def tune_artifact(
    quantized: Model,
    reference: Model,
    output: str | Path,
    settings: TuningSettings | None = None,
    *,
    calibration: Calibration | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    conduct: Conduct | None = None,
) -> Artifacts:
    """Tune scales and norms of a quantized model, and write it in the format that it has.

    Codes stay the same, and so does the size. The state of an interrupted run is kept next to
    ``output``.

    Args:
        quantized: a quantized model of any format except ONNX, or a hub id.
        reference: the model that it was quantized from, in full precision.
        output: folder to create.
        settings: amount of tuning; None for the defaults.
        calibration: text to tune on; None for the bundled one.
        overwrite: whether to replace an ``output`` that phi3quant created.
        progress: display of the stages.
        conduct: device, resuming and verification; None for the defaults.

    Returns:
        Folder of the artifact, with the divergences before and after.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.
    """
    settings, calibration = settings or TuningSettings(), calibration or Calibration()
    conduct, output = conduct or Conduct(), Path(output)
    source = as_stored(open_source(quantized))
    original = conduct.shared.opened(locate(reference))
    _check_same_model(source, original)
    device = find_device(conduct.device)
    recipe = {"tuning": settings.as_json()}
    target = same_format(source, recipe, "tune")
    stamps = check_export(source, target, output, conduct.judge, overwrite=overwrite)
    writing = Writing(device, conduct.max_memory, progress)
    text = tuning_windows(original, calibration, None, settings.windows, writing)
    room = room_for(original.config, text.windows, settings, device, conduct)
    with open_journal(output, overwrite=overwrite) as (workspace, journal):
        if not (conduct.resume or overwrite):
            journal.refuse_to_forget()
        identity = _identity(source, original, text, settings)
        prepare(journal, conduct, identity, device)
        with computing_on(device, conduct.max_memory):
            changed = tuned(original.model, source.parts, text, settings, room, journal, progress)
        named = {} if device.type == "cpu" else {"device": device_name(device)}
        result = {**text.description, **changed.as_json(), **named}
        artifacts = publish_export(
            replace(source, parts=changed.parts(source.parts)),
            replace(target, recipe={"tuning": {**settings.as_json(), **result}}),
            workspace,
            progress,
            conduct.judge,
            stamps,
            original,
        )
    return replace(artifacts, tuning=result)


def _check_same_model(source: ExportSource, original: OpenedModel[Checkpoint]) -> None:
    """Refuse a reference of another architecture or vocabulary.

    Raises:
        NotComparableError: they differ.
    """
    one, other = source.opened.config, original.config
    for name in _SIZES:
        if getattr(one, name) != getattr(other, name):
            raise NotComparableError(
                f"{source.opened.name} has a {name} of {getattr(one, name)}, and --reference "
                f"{original.name} has {getattr(other, name)}; use the model it was quantized from"
            )


def _identity(
    source: ExportSource,
    original: OpenedModel[Checkpoint],
    text: TuningWindows,
    settings: TuningSettings,
) -> dict[str, Any]:
    """Everything that could change a bit of the result."""
    return {
        "tuning": settings.as_json(),
        "text": text.description,
        "quantized": manifest.describe_source(source.opened.located, source.files),
        **manifest.describe_source(original.located, files_of(original)),
    }
