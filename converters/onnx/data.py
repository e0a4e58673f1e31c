"""External data of an ONNX model: planned first, then streamed in that order and hashed."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from converters.onnx.sizes import Place
from phi3quant.disk.file_name import is_file_name
from phi3quant.disk.first_bytes import lfs_hint
from phi3quant.disk.hashed_file import HashedFile, describe_file, sha256
from phi3quant.disk.ordered_writer import OrderedWriter
from phi3quant.disk.output import write_json
from phi3quant.disk.tensor_stream import TensorSpec
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import CheckpointError

FILE_LIST = "files.json"
"""File with the size and SHA-256 of every other file in a model's folder."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_SHOWN = 80

TYPES: Mapping[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
}
"""ONNX's type numbers by torch dtype."""


def tensor_proto(name: str, spec: TensorSpec, place: Place) -> TensorProto:
    """Initializer whose bytes are in another file."""
    proto = TensorProto(
        name=name,
        data_type=TYPES[spec.dtype],
        dims=spec.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (
        ("location", place.file),
        ("offset", place.offset),
        ("length", place.nbytes),
    ):
        proto.external_data.add(key=key, value=str(value))
    return proto


class DataStream:
    """Writer of tensors at their places, with one piece in memory at a time.

    Attributes:
        files: entries of hashed_file.describe_file for the files finished so far.
    """

    def __init__(
        self, folder: Path, specs: Sequence[TensorSpec], places: Mapping[str, Place]
    ) -> None:
        self._folder = folder
        self._specs = {spec.name: spec for spec in specs}
        self._places = places
        self._file: HashedFile | None = None
        self._order = OrderedWriter(self._specs, self._close)
        self.files: dict[str, dict[str, Any]] = {}

    def complete(self) -> None:
        """See Completable."""
        self._order.complete()

    def abandon(self) -> None:
        """See Completable."""
        self._order.abandon()

    def write(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Write the next tensor, in pieces along its first axis; they must not change afterwards.

        Raises:
            ValueError: another tensor comes next by the plan, or the planned type or size differs.
        """
        self._order.expect(name)
        spec = self._specs[name]
        place = self._places[name]
        self._order.submit(partial(self._begin, place), 0)
        written = 0
        for piece in pieces:
            if piece.dtype != spec.dtype:
                raise ValueError(f"tensor {name} is {piece.dtype}; {spec.dtype} was planned")
            data = piece.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            written += len(data)
            self._order.submit(partial(self._append, data), len(data))
        if written != place.nbytes:
            raise ValueError(f"tensor {name} has {written} bytes; {place.nbytes} were planned")

    def _begin(self, place: Place) -> None:
        """Start a tensor: open its file if necessary, and fill the gap before it."""
        if self._file is None or place.file != self._file.path.name:
            self._close()
            self._file = HashedFile(self._folder / place.file)
        self._file.write(bytes(place.offset - self._file.size))

    def _append(self, data: memoryview) -> None:
        assert self._file is not None
        self._file.write(data)

    def _close(self) -> None:
        if self._file is not None:
            self.files[self._file.path.name] = self._file.close()
            self._file = None


def write_file_list(folder: Path, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the list of all files in a folder.

    Args:
        folder: folder of the model.
        known: entries of files that were hashed while they were written.
    """
    listed = {
        path.name: known.get(path.name) or describe_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    write_json(folder / FILE_LIST, listed)


def check_sizes(folder: Path, needed: Mapping[str, int]) -> None:
    """Check by their sizes that data files are complete.

    Args:
        folder: folder of the model.
        needed: end of the last tensor in each data file, in bytes.

    Raises:
        CheckpointError: a file is missing or too short, or its size differs from the list of files.
    """
    listed = read_file_list(folder)
    for name, end in needed.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, which holds weights of the model; copy it again"
            )
        size = path.stat().st_size
        expected = listed.get(name, {}).get("bytes", size)
        if size < end or size != expected:
            hint = lfs_hint(path)
            if hint is not None:
                raise CheckpointError(hint)
            raise CheckpointError(
                f"{path} has {size} bytes, not {max(end, expected)}; it was cut short or "
                "replaced: copy it again"
            )


def check_hashes(folder: Path, names: Iterable[str]) -> None:
    """Compare files with the hashes in the list of files; files that aren't listed pass.

    Raises:
        CheckpointError: a hash differs.
    """
    listed = read_file_list(folder)
    for name in names:
        expected = listed.get(name, {}).get("sha256")
        if expected is not None and sha256(folder / name) != expected:
            raise CheckpointError(
                f"{folder / name} is damaged: its SHA-256 is not the one in {FILE_LIST}; "
                "copy it again"
            )


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model: in its graph, and inside nodes, branches and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from (attribute.t, *attribute.tensors)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
    for graph in (attribute.g, *attribute.graphs):
        yield from _graph_tensors(graph)


def external_ends(tensors: Iterable[TensorProto], where: Path) -> dict[str, int]:
    """End of the last tensor in each external file, in bytes.

    Args:
        tensors: tensors of a model.
        where: file of the graph.

    Raises:
        CheckpointError: a tensor's place is invalid or outside the model's folder.
    """
    ends: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            place = place_of(tensor, where)
            ends[place.file] = max(ends.get(place.file, 0), place.offset + place.nbytes)
    return ends


def place_of(tensor: TensorProto, where: Path) -> Place:
    """Place of an external tensor.

    Raises:
        CheckpointError: as external_ends.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = entries.get("location", "")
    numbers = [entries.get(key, "0") for key in ("offset", "length")]
    if not is_file_name(file) or not all(map(_NUMBER.fullmatch, numbers)):
        raise CheckpointError(
            f"{where} places tensor {_shortened(tensor.name)} in {_shortened(file)!r} at "
            f"{' + '.join(map(_shortened, numbers))}, which is not a file next to it"
        )
    return Place(file, *map(int, numbers))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_file_list(folder: Path) -> dict[str, Any]:
    """Entries of a folder's list of files by name; empty if there is no list.

    Raises:
        CheckpointError: the list is malformed.
    """
    path = folder / FILE_LIST
    listed = read_json_if_there(path)
    for entry in listed.values():
        values = entry if isinstance(entry, dict) else {}
        if [type(values.get(key)) for key in ("bytes", "sha256")] != [int, str]:
            raise CheckpointError(f"{path} is not a list of files with bytes and sha256")
    return listed
