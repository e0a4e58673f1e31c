"""Tuning whose state is kept in a journal, from which an interrupted run resumes."""

from converters.parts import Parts
from phi3quant import freed_memory
from phi3quant.disk.workspace import TUNING
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress
from phi3quant.run.journal import Journal
from phi3quant.run.tuning_cost import Room
from phi3quant.run.tuning_windows import TuningWindows
from phi3quant.tuning.resume_point import ResumePoint
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.tune import Tuned, tune


def tuned(
    original: ModelWeights,
    parts: Parts,
    text: TuningWindows,
    settings: TuningSettings,
    room: Room,
    journal: Journal,
    progress: Progress,
) -> Tuned:
    """Tune a quantized model, or continue.

    Args:
        original: the original model.
        parts: parts of the quantized model.
        text: windows to tune on.
        settings: passes, batch and rate.
        room: use of the memory.
        journal: has the state next to finished blocks.
        progress: display of the stages.
    """
    with freed_memory.kept(keep=room.keeps_freed):
        return tune(
            original,
            parts,
            original.config,
            text.windows,
            settings,
            room.shelf(journal.folder),
            progress,
            ResumePoint(journal.folder / TUNING),
        )
