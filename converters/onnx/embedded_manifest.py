"""Manifest inside an ONNX model: strings in the metadata of its graph.

Weights are in other files, so that the file of the graph is small and can be rewritten.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto

from converters.format import MANIFEST_PREFIX
from converters.onnx.data import FILE_LIST, read_file_list
from converters.onnx.file import MODEL_FILE, read_graph
from phi3quant.disk.hashed_file import describe_file
from phi3quant.disk.output import write_bytes, write_json


def fill(folder: Path, strings: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """Write a manifest's strings into a complete model, replacing those of an earlier manifest.

    The list of files is updated. Weights were hashed while they were written and aren't read again.

    Returns:
        Entries of the list of files.

    Raises:
        CheckpointError: the graph or the list of files can't be read.
        OutputError: a file can't be written.
    """
    path = folder / MODEL_FILE
    graph = read_graph(folder)
    others = {
        key: text for key, text in _metadata(graph).items() if not key.startswith(MANIFEST_PREFIX)
    }
    del graph.metadata_props[:]
    for key, text in {**others, **strings}.items():
        graph.metadata_props.add(key=key, value=text)
    write_bytes(path, graph.SerializeToString())
    hashed = {**read_file_list(folder), MODEL_FILE: describe_file(path)}
    write_json(folder / FILE_LIST, hashed)
    return hashed


def read_metadata(folder: Path) -> dict[str, str]:
    """All metadata of a model, whoever wrote it.

    Raises:
        CheckpointError: the graph can't be read.
    """
    return _metadata(read_graph(folder))


def _metadata(graph: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in graph.metadata_props}
