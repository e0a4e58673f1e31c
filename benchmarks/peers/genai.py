"""onnxruntime-genai's model builder: makes an ONNX folder from a checkpoint, by RTN."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers.job import Job, Settings, Step


def plan(python: Path) -> Callable[[Job, Settings], Sequence[Step]]:
    """Plan of the builder with this interpreter; its only setting is ``group_size``."""

    def planned(job: Job, settings: Settings) -> Sequence[Step]:
        command: list[str | Path] = [
            python,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            job.model,
        ]
        options: list[str | Path] = [
            "-o",
            job.artifact,
            "-p",
            "int4",
            "-e",
            "cpu",
            "-c",
            job.folder / "cache",
        ]
        extra = ["--extra_options", "accuracy_level=4", f"block_size={settings['group_size']}"]
        return [Step([*command, *options, *extra])]

    return planned
