"""A manifest inside an ONNX model: strings among the metadata of its graph.

The weights lie in other files, so that the graph's is small and can be written again.
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
    """Put a manifest's strings into a complete model, in the place of those that are there.

    The list of files is brought up to date; the hashes of weights were taken while they were
    written, and they aren't read again.

    Returns:
        The entries of the list of files.

    Raises:
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
    """All metadata of a model, ours and others'.

    Raises:
        CheckpointError: the graph can't be read.
    """
    return _metadata(read_graph(folder))


def _metadata(graph: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in graph.metadata_props}
