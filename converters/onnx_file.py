"""The file of an ONNX model that isn't weights: its graph, read."""

from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from phi3quant.errors import CheckpointError
from phi3quant.first_bytes import lfs_hint

MODEL_FILE = "model.onnx"


def is_onnx(path: Path) -> bool:
    """Whether this is a folder with a graph."""
    return (path / MODEL_FILE).is_file()


def read_graph(folder: Path) -> ModelProto:
    """The graph of a folder, without its weights.

    Raises:
        CheckpointError: it can't be read.
    """
    graph = ModelProto()
    path = folder / MODEL_FILE
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CheckpointError(
            lfs_hint(path) or f"{path} is not an ONNX model: {error}; copy it again"
        ) from None
    return graph
