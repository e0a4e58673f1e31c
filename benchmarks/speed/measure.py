"""Measurement in turns: each round runs every task of a turn once."""

import shutil
from functools import cache, partial
from pathlib import Path

import click
import numpy as np

from benchmarks import ROOT
from benchmarks.machine import described
from benchmarks.peers.job import Job, perform
from benchmarks.peers.process import RefusedError
from benchmarks.peers.tools import OURS, TOOLS, source_of, versions_of
from benchmarks.speed.plan import TASKS, Size, Task, Turn
from benchmarks.speed.sample import Sample, Samples, key_of
from benchmarks.synthetic import write_checkpoint
from calib import windows
from calib.corpus import load_corpus, render
from phi3quant.source.tokenizer import load_tokenizer

WORK = ROOT / "build" / "speed"
"""Folder for models and temporary artifacts."""
KEPT = ROOT / "benchmarks" / "speed" / "samples.json"
"""File of the samples."""
_CALIB = "tiny"  # text in the language of the synthetic models' tokenizer
_SEQ_LEN = 512
_SMALL = Size("mini-quarter", layers=1, samples=2, threads=1)


def measure(turn: Turn, samples: Samples, *, renew: bool) -> None:
    """Measure the missing samples of a turn.

    Args:
        turn: tasks to run.
        samples: known samples; new ones are added.
        renew: repeat rounds of an older version of the source. Rounds of another machine are
            always repeated. A round is repeated as a whole, because its ratios compare tasks that
            ran one after the other.
    """
    for number in range(turn.rounds):
        tasks = {key_of(TASKS[name], turn.size, number): TASKS[name] for name in turn.tasks}
        if any(
            _outdated(samples.known[key], task, renew=renew)
            for key, task in tasks.items()
            if key in samples.known
        ):
            for key in tasks:
                samples.known.pop(key, None)
        for key, task in tasks.items():
            if key in samples.known:
                continue
            _warm_up(task)
            sample = _sample(task, turn.size)
            samples.add(key, sample)
            said = sample.refused or f"{sample.seconds:.1f} s, {sample.peak_bytes / 1e9:.2f} GB"
            click.echo(f"{turn.name}, {turn.size.model}, round {number + 1}: {task.title}: {said}")


def _outdated(sample: Sample, task: Task, *, renew: bool) -> bool:
    older = sample.source != source_of(task.tool, task.settings)
    return sample.machine != described() or (renew and older)


@cache
def _warm_up(task: Task) -> None:
    """Run one of our tasks on a small model first, so that compilation isn't measured."""
    if task.tool == OURS:
        _sample(task, _SMALL)


def _sample(task: Task, size: Size) -> Sample:
    tool = TOOLS[task.tool]
    if tool.home:
        tool.home.make()
    made = partial(
        Sample,
        machine=described(),
        source=source_of(tool.name, task.settings),
        versions=versions_of(tool.name),
    )
    model = WORK / "models" / size.model
    if not (model / "config.json").exists():
        write_checkpoint(model, size.shape, layers=size.layers)
    ids, words = _write_windows(model, size.samples)
    folder = WORK / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shared = WORK / "shared" / size.model
    job = Job(model, _CALIB, size.samples, _SEQ_LEN, ids, words, shared, folder, size.threads)
    try:
        spent = perform(tool, job, task.settings, reading=False)
    except RefusedError as error:
        return made(0.0, 0, str(error))
    finally:
        shutil.rmtree(folder / "artifact", ignore_errors=True)
    return made(spent.seconds, spent.peak_bytes, None)


def _write_windows(model: Path, samples: int) -> tuple[Path, Path]:
    """Write the windows that phi3quant chooses, as token ids and as text."""
    ids, words = (WORK / f"windows-{samples}{ending}" for ending in (".npy", ".txt"))
    tokenizer = load_tokenizer(model)
    text = render(load_corpus(_CALIB, "calibration"), tokenizer)
    cut = windows.cut_windows(tokenizer.encode(text), _SEQ_LEN, _CALIB)
    np.save(ids, windows.sample_windows(cut, samples, seed=0).numpy())
    words.write_text(text, encoding="utf-8")
    return ids, words
