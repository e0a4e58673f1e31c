"""Plan of a quantization: everything that can be checked before work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from converters.companions import check_companions
from converters.format import Format
from phi3quant.disk.output import check_not_inside
from phi3quant.disk.workspace import check_output
from phi3quant.model.device import device_name, find_device
from phi3quant.progress import Progress
from phi3quant.provenance import manifest
from phi3quant.quant.methods import METHODS, Method
from phi3quant.run import preflight
from phi3quant.run.admission import calibrated_sizes, checked_formats
from phi3quant.run.conduct import Conduct
from phi3quant.run.preflight import Room
from phi3quant.run.recipe import Recipe
from phi3quant.run.target_size import output_bytes
from phi3quant.run.teams import check_head, check_shareable
from phi3quant.run.written_windows import Writing
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Located
from phi3quant.source.opened_model import OpenedModel


@dataclass(frozen=True)
class Plan:
    """Plan of a run that has passed all checks.

    Attributes:
        source: model to quantize.
        recipe: recipe; with a target size, its types are not chosen yet.
        formats: formats to write; the first is the output folder itself.
        output: folder to create.
        conduct: resuming, memory limit and verification.
        progress: display of the stages.
        device: device that computes.
        room: use of the memory.
        files: files of the source to hash.
        stamps: sizes and times of these files.
    """

    source: OpenedModel[Checkpoint]
    recipe: Recipe
    formats: Sequence[Format]
    output: Path
    conduct: Conduct
    progress: Progress
    device: torch.device
    room: Room
    files: Sequence[Path]
    stamps: Mapping[Path, tuple[int, int]]

    @property
    def method(self) -> Method:
        """Method that chooses the codes."""
        return METHODS[self.recipe.method]

    @property
    def writing(self) -> Writing:
        """Limits and display for text that the model writes."""
        return Writing(self.device, self.conduct.max_memory, self.progress)

    @property
    def resumes(self) -> bool:
        """Whether blocks of an earlier run are used again."""
        return self.conduct.resume and self.method.calibrated


def planned(
    located: Located,
    output: Path,
    recipe: Recipe,
    conduct: Conduct,
    progress: Progress,
    *,
    overwrite: bool,
) -> Plan:
    """Check everything that can be checked before work starts."""
    device = find_device(conduct.device)
    opened = conduct.shared.opened(located)
    config = opened.config
    if conduct.teams is not None:
        check_shareable(recipe, device)
        check_head(recipe, config)
    formats = checked_formats(recipe, config)
    check_output(output, overwrite=overwrite)
    check_not_inside(output, located.folder)
    check_companions(located.folder)
    if conduct.judge is not None:
        conduct.judge.prepare(opened)
    size = output_bytes(recipe, formats, config)
    if device.type != "cpu":
        conduct.say(f"computing on {device_name(device)}")
    room = preflight.check(
        config, calibrated_sizes(recipe), (output, size), conduct.max_memory, conduct.say, device
    )
    if conduct.teams is not None:
        conduct.teams.prepare(located, conduct.shared)
    files = manifest.source_files(located, opened.model.store.files)
    return Plan(
        opened,
        recipe,
        formats,
        output,
        conduct,
        progress,
        device,
        room,
        files,
        manifest.stamps([*files, *manifest.adapter_files(located)]),
    )
