"""External data of an ONNX model: planned first, then streamed in that order, hashed on the way."""

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
"""Bytes and SHA-256 of every other file of a model's folder."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_SHOWN = 80

TYPES: Mapping[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
}
"""ONNX's numbers of the types that are written."""


def tensor_proto(name: str, spec: TensorSpec, place: Place) -> TensorProto:
    """An initializer whose bytes lie elsewhere."""
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
    """Writes tensors at their places, one piece in memory at a time.

    Completing it checks that all of them came.
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
        """Write the next tensor, in pieces along its first axis; they must not be changed later.

        Raises:
            ValueError: it is not the one that was planned for this place, or of another type or
                size.
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
        """Go to where a tensor begins."""
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
    """List all files of a folder.

    Args:
        folder: where they are.
        known: entries of files that were hashed while they were written.
    """
    listed = {
        path.name: known.get(path.name) or describe_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    write_json(folder / FILE_LIST, listed)


def check_sizes(folder: Path, needed: Mapping[str, int]) -> None:
    """Make sure that data files are whole, by their sizes.

    Args:
        folder: of the model.
        needed: for each data file, where the last tensor in it ends.

    Raises:
        CheckpointError: one is missing or shorter, or has another size than was listed.
    """
    listed = read_file_list(folder)
    for name, end in needed.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; the model's weights are in it")
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
    """Make sure that files hold what was written; those that aren't listed pass.

    Raises:
        CheckpointError: one doesn't.
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
    """Every tensor of a model: of its graph, and inside nodes, branches and functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from (attribute.t, *attribute.tensors)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
    for graph in (attribute.g, *attribute.graphs):
        yield from _of_graph(graph)


def external_ends(tensors: Iterable[TensorProto], where: Path) -> dict[str, int]:
    """For each file that tensors lie in, where the last of them ends.

    Args:
        tensors: of a model.
        where: the graph's file.

    Raises:
        CheckpointError: a tensor claims to lie outside the model's folder, or nowhere.
    """
    ends: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            place = place_of(tensor, where)
            ends[place.file] = max(ends.get(place.file, 0), place.offset + place.nbytes)
    return ends


def place_of(tensor: TensorProto, where: Path) -> Place:
    """Where an external tensor lies.

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
    """The entries of a folder's list of files, by name; none if it has no list.

    Raises:
        CheckpointError: it can't be read as such.
    """
    path = folder / FILE_LIST
    listed = read_json_if_there(path)
    for entry in listed.values():
        values = entry if isinstance(entry, dict) else {}
        if [type(values.get(key)) for key in ("bytes", "sha256")] != [int, str]:
            raise CheckpointError(f"{path} is no list of files with bytes and sha256")
    return listed
