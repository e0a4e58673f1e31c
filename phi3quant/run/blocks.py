"""Quantization of all blocks of a checkpoint, with one block in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from calib.activations import Shelf
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU
from phi3quant.progress import Progress, Step
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.on_device.moves import block_on_cpu, codecs_for
from phi3quant.quant.methods import Method
from phi3quant.quant.tensor import Quantized
from phi3quant.run import one_block
from phi3quant.run.block_record import BlockRecord
from phi3quant.run.coarse_head import head_codes, head_inputs
from phi3quant.run.journal import Journal
from phi3quant.run.memory_budget import Place
from phi3quant.run.overlap import BlockReader, Later, behind, block_reader
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.team import ALONE, Team, broadcast


@dataclass(frozen=True)
class Work:
    """Treatment of each block.

    Attributes:
        method: method that chooses codes.
        codecs: function that returns the codecs of a block's linears, given its index.
        compensate: see phi3quant.run.one_block.start.
        ids: calibration windows, int64 [windows, length]; None for a method without calibration.
        device: device that computes.
        place: place of the hidden states; on disk, they are in the journal's folder.
        head: codec of the output matrix, if its codes are chosen by its inputs; only in a team of
            one.
        team: team that shares the work.
    """

    method: Method
    codecs: Callable[[int], Codecs]
    compensate: bool
    ids: torch.Tensor | None
    device: torch.device = CPU
    place: Place = Place.DEVICE
    head: AffineCodec | None = None
    team: Team = ALONE

    @property
    def overlaps(self) -> bool:
        """Whether blocks are read ahead and written behind, while a GPU computes."""
        return self.device.type != "cpu"

    def shelf(self, journal: Journal | None) -> Shelf:
        """Storage of the hidden states."""
        folder = journal.folder if journal is not None and self.place is Place.DISK else None
        return Shelf(folder, self.device, on_host=self.place is Place.HOST)


class Receiver(Protocol):
    """Receiver of a model's parts in order, such as a converters.format.ModelWriter."""

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """See ModelWriter."""

    def block(self, index: int, block: QuantizedBlock) -> None:
        """See ModelWriter."""

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """See ModelWriter."""


def quantize_blocks(
    checkpoint: Checkpoint,
    work: Work,
    writers: Sequence[Receiver],
    progress: Progress,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """Quantize a checkpoint and pass it to writers.

    All members of a team call this. Only the first has writers and a journal; it passes finished
    blocks on to the others.

    Args:
        checkpoint: source.
        work: treatment of each block.
        writers: writers, which receive the parts in order.
        progress: display of the blocks.
        journal: finished blocks of an earlier run, to which further ones are added.

    Returns:
        Report of errors for each block; reports are empty without calibration.

    Raises:
        Phi3QuantError: see phi3quant.errors.
    """
    # In its stored dtype, since in FP32 it is larger than a block; writers check its values.
    embedding = checkpoint.store.load(EMBEDDING)
    shelf, tied = work.shelf(journal), checkpoint.config.tie_word_embeddings
    choose = None
    if work.head is not None and work.ids is not None:
        inputs = head_inputs(checkpoint, work.ids, shelf, progress)
        choose = partial(head_codes, checkpoint, inputs, work.head)
    coded = choose() if choose is not None and tied else None
    for writer in writers:
        writer.embedding(embedding if coded is None else coded)
    states = None
    if work.ids is not None:
        states = one_block.start(
            checkpoint.config,
            embedding,
            work.ids,
            shelf,
            compensate=work.compensate,
            coded=coded,
            team=work.team,
        )
    del embedding, coded
    with (
        block_reader(checkpoint, work.device, ahead=work.overlaps) as reader,
        behind(overlapping=work.overlaps) as later,
    ):
        run = _BlockRun(reader, work, writers, states, journal, later)
        reports = run.all_blocks(progress)
    norm = checkpoint.final_norm()
    head: torch.Tensor | Quantized | None = None
    if not tied:
        head = checkpoint.store.load(HEAD) if choose is None else choose()
    for writer in writers:
        writer.final(norm, head)
    return reports


@dataclass(frozen=True)
class _BlockRun:
    """Parts of a run; ``states`` change from block to block."""

    reader: BlockReader
    work: Work
    writers: Sequence[Receiver]
    states: one_block.States | None
    journal: Journal | None
    later: Later

    @property
    def config(self) -> Phi3Config:
        return self.reader.checkpoint.config

    def all_blocks(self, progress: Progress) -> list[dict[str, Any]]:
        """Restore the recorded blocks and quantize the others; returns the report of each."""
        count = self.config.num_hidden_layers
        reports: list[dict[str, Any]] = []
        finished = broadcast(self.work.team, self.journal.finished if self.journal else 0)
        if finished:
            with progress("loading finished blocks", finished) as step:
                reports = self.restore(finished, step)
        title = f"quantizing ({self.work.method.title})"
        with progress(title, count - len(reports)) as step:
            for index in range(len(reports), count):
                report = self.quantize(index)
                reports.append(report)
                ratio = report.get("error_ratio")
                step(1, "" if ratio is None else f"{ratio:.3f} of RTN's error")
        return reports

    def restore(self, finished: int, step: Step) -> list[dict[str, Any]]:
        """Write the recorded blocks, and advance the states past them.

        The states are not needed if all blocks are finished.
        """
        count = self.config.num_hidden_layers
        reports: list[dict[str, Any]] = []
        for index in range(finished):
            record = self._record(index)
            if record is None:
                break
            if finished < count:
                self._advance(index, record)
            for writer in self.writers:
                writer.block(index, record.block)
            reports.append(dict(record.report))
            step()
        if finished == count and len(reports) < count:
            # A damaged record must be quantized again, which needs the states.
            for index in range(len(reports)):
                record = self._record(index)
                assert record is not None
                self._advance(index, record)
        return reports

    def _record(self, index: int) -> BlockRecord | None:
        record = None
        if self.journal is not None:
            record = self.journal.take(index, self.config, self.work.codecs(index))
        return broadcast(self.work.team, record)

    def _advance(self, index: int, record: BlockRecord) -> None:
        assert self.states is not None
        one_block.advance_through(self.reader.full(index), record.block, self.states)

    def quantize(self, index: int) -> dict[str, Any]:
        """Quantize the next block, write it and record it."""
        coded, report = self._coded(index)
        result = block_on_cpu(coded)

        def write() -> None:
            for writer in self.writers:
                writer.block(index, result)
            if self.journal is not None:
                self.journal.keep(index, result, report)

        self.later(write)
        return report

    def _coded(self, index: int) -> tuple[QuantizedBlock, dict[str, Any]]:
        codecs = codecs_for(self.work.device, self.work.codecs(index))
        if self.states is None:
            return self._round(index, codecs), {}
        block = self.reader.full(index)
        try:
            return one_block.quantize_block(block, self.states, self.work.method, codecs)
        except (CheckpointError, SchemeError) as error:
            raise type(error)(f"a matrix of block {index} can't be quantized: {error}") from None

    def _round(self, index: int, codecs: Codecs) -> QuantizedBlock:
        """Quantize a block without calibration, from weights in their stored dtype."""
        block = self.reader.stored(index)
        try:
            return self.work.method.quantize_block(block, {}, self.config, codecs)
        except CheckpointError:
            # Raises an error with the tensor, its file and the position of the bad value.
            self.reader.checkpoint.block(index)
            raise
