"""Measurement of one entry: the tool quantizes, the artifact is read back and scored."""

import json
import shutil
from dataclasses import replace
from math import prod

from benchmarks.peers.job import Job, Tool, perform
from benchmarks.peers.plain import SIZES
from benchmarks.peers.process import RefusedError
from benchmarks.peers.tools import TOOLS, source_of, versions_of
from benchmarks.quality.entries import Entry
from benchmarks.quality.result import Result, key_of, slug
from benchmarks.quality.subject import Subject
from converters import open_weights
from phi3quant.evaluation.inspection import linear_bits
from phi3quant.evaluation.metrics import figures
from phi3quant.model.architecture import tensor_shapes


def measure(entry: Entry, subject: Subject, threads: int, *, keep: bool) -> Result:
    """Run the tool and score its artifact; a refusal by the tool is a result too.

    Args:
        entry: the tool and its settings.
        subject: the model and its texts.
        threads: number of threads for the tool.
        keep: keep the artifact instead of deleting it.
    """
    tool = TOOLS[entry.tool]
    if tool.home:
        tool.home.make()
    ids, words = subject.write_calibration()
    folder = subject.folder / "artifacts" / slug(entry)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = Job(
        model=subject.model,
        calib=subject.calib,
        samples=subject.samples,
        seq_len=subject.seq_len,
        windows=ids,
        words=words,
        shared=subject.folder / "shared",
        folder=folder,
        threads=threads,
    )
    made = Result(
        key=key_of(entry, subject),
        source=source_of(entry.tool, entry.settings),
        refused=None,
        linear_bits=0.0,
        file_bits=0.0,
        seconds=0.0,
        peak_bytes=0,
        threads=threads,
        versions=versions_of(tool.name),
        scores={},
    )
    try:
        spent = perform(tool, job, entry.settings)
    except RefusedError as error:
        return replace(made, refused=str(error))
    linear, whole = _bits(tool, job, subject)
    model = open_weights(tool.result(job))
    compared = {
        text: subject.compare(model, number) for number, text in enumerate(subject.text_hashes)
    }
    if not keep:
        shutil.rmtree(folder)
    return replace(
        made,
        linear_bits=linear,
        file_bits=whole,
        seconds=spent.seconds,
        peak_bytes=spent.peak_bytes,
        scores={text: figures(each, reference=False) for text, each in compared.items()},
    )


def _bits(tool: Tool, job: Job, subject: Subject) -> tuple[float, float]:
    """Bits per weight of the blocks' matrices and of the whole model."""
    full = subject.opened
    parameters = sum(prod(shape) for shape in tensor_shapes(full.config).values())
    if tool.decoded:
        stored = json.loads((job.plain / SIZES).read_text(encoding="utf-8"))["linear_bytes"]
        # The other tensors are stored as in the source.
        whole = full.weight_bytes - full.linear_bytes + stored
        return linear_bits(full) * stored / full.linear_bytes, 8 * whole / parameters
    made = open_weights(tool.result(job))
    return linear_bits(made), 8 * made.weight_bytes / parameters
