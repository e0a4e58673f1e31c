"""Reader of an ONNX model's graph, without its weights."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

from phi3quant.disk.first_bytes import lfs_hint
from phi3quant.errors import CheckpointError

MODEL_FILE = "model.onnx"


def is_onnx(path: Path) -> bool:
    """Whether ``path`` is a folder with a graph."""
    return (path / MODEL_FILE).is_file()


def read_graph(folder: Path) -> ModelProto:
    """Read the graph of a folder, without its weights.

    Raises:
        CheckpointError: the graph can't be read.
    """
    graph = ModelProto()
    path = folder / MODEL_FILE
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CheckpointError(
            lfs_hint(path) or f"{path} is not an ONNX model: {error}; copy it again"
        ) from None
    if not _is_text(graph):
        raise CheckpointError(f"{path} has names that are not UTF-8; copy it again")
    return graph


def _is_text(message: Message) -> bool:
    """Whether all strings are UTF-8; the library returns the others as bytes."""
    # Fields of type bytes are skipped: they hold weights, which may be large.
    for field in message.DESCRIPTOR.fields:
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        value = getattr(message, field.name)
        repeated = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not repeated and field.type == field.TYPE_MESSAGE and not message.HasField(field.name):
            continue
        for entry in value if repeated else (value,):
            if not (_is_text(entry) if isinstance(entry, Message) else isinstance(entry, str)):
                return False
    return True
