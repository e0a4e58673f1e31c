"""Work of one job, the same in every process and on every machine."""

import os
import platform
import time
import traceback
from dataclasses import dataclass, replace

from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import BusyError, MemoryLimitError, Phi3QuantError, ResumeError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.full_precision import FullPrecision
from phi3quant.progress import Progress
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.verification import Verification
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.opened_model import OpenedModel
from phi3quant.sweep import peak_memory
from phi3quant.sweep.cache import mismatch
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.job import Job
from phi3quant.sweep.job_log import JobLog, job_log
from phi3quant.sweep.originals import files_of_original, original
from phi3quant.sweep.outcome import Outcome, outcome_of, write_outcome
from phi3quant.sweep.plan import Limits
from phi3quant.sweep.store import Store

# Seconds between tries to lock an output.
_RETRY = 2


@dataclass(frozen=True)
class Task:
    """A job with its surroundings.

    Attributes:
        job: the job.
        folder: folder of the sweep.
        text: text to score on.
        limits: device and memory.
        patience: seconds to wait for another process that is writing the same artifact.
        store: address that keeps the results too; None for the folder alone.
    """

    job: Job
    folder: SweepFolder
    text: EvaluationText
    limits: Limits
    patience: float = 0
    store: Store | None = None


def run_job(task: Task, shared: SharedWork, progress: Progress) -> Outcome:
    """Quantize, score and record; an error ends only this job.

    Finished blocks of an interrupted try are used.

    Args:
        task: the job.
        shared: work that jobs of this process share.
        progress: display of the stages.

    Raises:
        OSError: the log can't be written.
    """
    key = task.job.key
    with job_log(task.folder.log(key)) as log:
        log.say(f"started on {platform.node()}, process {os.getpid()}: {task.job}")
        try:
            outcome = _finished(task, shared, log, progress)
        except MemoryLimitError as error:
            outcome = Outcome(key, "refused", str(error))
        except (Phi3QuantError, OSError, MemoryError) as error:
            outcome = Outcome(key, "failed", str(error) or type(error).__name__)
        # The other jobs go on; the log has what a bug report needs.
        except Exception as error:  # noqa: BLE001
            log.say(traceback.format_exc())
            outcome = Outcome(key, "failed", f"a bug: {type(error).__name__}: {error}")
        log.say(f"{outcome.status}{f': {outcome.reason}' if outcome.reason else ''}")
    return outcome


def _finished(task: Task, shared: SharedWork, log: JobLog, progress: Progress) -> Outcome:
    job, folder, device = task.job, task.folder, task.limits.device
    artifact, logged = folder.artifact(job.key), log.progress(progress)
    started = time.monotonic()
    measured = peak_memory.begin_span()
    opened = shared.opened(job.subject.located)
    kept = kept_original(task, opened, logged)
    conduct = Conduct(
        resume=folder.finished_blocks(job.key) > 0,
        max_memory=task.limits.max_memory,
        say=log.say,
        judge=Verification(task.text, logged, device, kept),
        device=device,
        shared=shared,
    )
    _quantize(task, conduct, log, logged)
    changed = mismatch(job, read_json_if_there(artifact / MANIFEST))
    if changed:
        return Outcome(job.key, "failed", f"{changed}, which changed meanwhile; run it again")
    outcome = replace(
        outcome_of(job.key, artifact, job.recipe.formats),
        seconds=round(time.monotonic() - started, 2),
        peak_bytes=peak_memory.peak_of_span() if measured else None,
    )
    write_outcome(folder.outcome(job.key), outcome)
    if task.store is not None:
        task.store.keep(folder, job.key)
    return outcome


def kept_original(task: Task, opened: OpenedModel[Checkpoint], progress: Progress) -> FullPrecision:
    """Predictions of a job's model in full precision, which all jobs of the model share.

    Raises:
        Phi3QuantError: the text or the model can't be used, or the files can't be written.
    """
    place, store = task.folder.original(task.job.subject.original), task.store
    if store is not None:
        store.exchange_files(task.folder, *files_of_original(place))
    kept = original(place, opened, task.text, progress, task.limits.device)
    if store is not None:
        store.exchange_files(task.folder, *files_of_original(place))
    return kept


def _quantize(task: Task, conduct: Conduct, log: JobLog, progress: Progress) -> None:
    """Write the artifact; blocks that another configuration has finished are dropped."""
    artifact = task.folder.artifact(task.job.key)
    located, recipe = task.job.subject.located, task.job.recipe
    # An artifact that is there was refused by the cache.
    overwrite = (artifact / MANIFEST).is_file()
    deadline = time.monotonic() + task.patience
    while True:
        try:
            quantize(
                located, artifact, recipe, overwrite=overwrite, progress=progress, conduct=conduct
            )
        except BusyError:
            # A dead machine's lock on a network file system takes a while to expire.
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY)
        except ResumeError as error:
            if not conduct.resume:
                raise
            log.say(f"starting over: {error}")
            conduct, overwrite = replace(conduct, resume=False), True
        else:
            return
