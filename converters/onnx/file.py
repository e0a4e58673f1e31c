"""Reader of an ONNX model's graph, without its weights."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

from phi3quant.disk.file_name import is_file_name
from phi3quant.disk.first_bytes import lfs_hint
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import CheckpointError

MODEL_FILE = "model.onnx"
GENAI_CONFIG = "genai_config.json"


def is_onnx(path: Path) -> bool:
    """Whether ``path`` is a folder with a graph."""
    return graph_file(path).is_file()


def graph_file(folder: Path) -> Path:
    """Path of a folder's graph: model.onnx, or the file that genai_config.json names."""
    file = folder / MODEL_FILE
    if file.is_file() or not (folder / GENAI_CONFIG).is_file():
        return file
    settings = read_json_if_there(folder / GENAI_CONFIG)
    for key in ("model", "decoder"):
        section = settings.get(key)
        settings = section if isinstance(section, dict) else {}
    name = settings.get("filename")
    named = isinstance(name, str) and is_file_name(name) and (folder / name).is_file()
    return folder / str(name) if named else file


def read_graph(folder: Path) -> ModelProto:
    """Read the graph of a folder, without its weights.

    Raises:
        CheckpointError: the graph can't be read.
    """
    graph = ModelProto()
    path = graph_file(folder)
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
