"""Graphs by others, damaged ones among them, as sources of exports."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx import ModelProto, NodeProto, helper

from converters import open_model, parts_of
from converters.onnx.file import MODEL_FILE
from converters.onnx.options import OnnxOptions
from phi3quant.errors import CheckpointError
from phi3quant.run.export import export_onnx, export_packed
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import make_model

Spoil = Callable[[ModelProto], None]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with codes and with floats."""
    folder = tmp_path_factory.mktemp("onnx")
    make_model(folder / "model")
    options = OnnxOptions(embedding="fp32", head="fp32")
    recipe = Recipe("rtn", formats=("onnx",), onnx=options)
    codes = quantize(folder / "model", folder / "codes", recipe).folders["onnx"]
    floats = export_onnx(folder / "model", folder / "floats", options=options).folders["onnx"]
    return {"codes": codes, "floats": floats}


def spoiled(source: Path, folder: Path, spoil: Spoil) -> Path:
    """Copy of a folder with another graph."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    graph = ModelProto()
    graph.ParseFromString((source / MODEL_FILE).read_bytes())
    spoil(graph)
    (folder / MODEL_FILE).write_bytes(graph.SerializeToString())
    return folder


def nodes(graph: ModelProto, kind: str) -> Iterator[NodeProto]:
    return (node for node in graph.graph.node if node.op_type == kind)


def without(graph: ModelProto, kind: str, attribute: str) -> None:
    for node in nodes(graph, kind):
        kept = [entry for entry in node.attribute if entry.name != attribute]
        del node.attribute[:]
        node.attribute.extend(kept)


def with_value(graph: ModelProto, kind: str, attribute: str, value: float) -> None:
    without(graph, kind, attribute)
    for node in nodes(graph, kind):
        node.attribute.append(helper.make_attribute(attribute, value))


def loop(graph: ModelProto) -> None:
    for node in nodes(graph, "Transpose"):
        node.input[0] = node.output[0]


def negative(graph: ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("norm.weight"):
            tensor.dims[:] = [-1, -tensor.dims[0]]


def fewer_inputs(kind: str) -> Spoil:
    def spoil(graph: ModelProto) -> None:
        for node in nodes(graph, kind):
            del node.input[1:]

    return spoil


@pytest.mark.parametrize(
    ("source", "spoil", "reason"),
    [
        ("floats", loop, "which should be a stored tensor"),
        ("floats", fewer_inputs("MatMul"), "has no input 1"),
        ("codes", fewer_inputs("MatMulNBits"), "has no input 1"),
        ("codes", fewer_inputs("SkipSimplifiedLayerNormalization"), "has no input 2"),
        ("codes", negative, "its shape"),
        ("codes", lambda graph: without(graph, "MatMulNBits", "K"), "has no K"),
        ("codes", lambda graph: without(graph, "MatMulNBits", "block_size"), "no block_size"),
        ("codes", lambda graph: with_value(graph, "MatMulNBits", "bits", 2), "2 bits"),
        ("codes", lambda graph: with_value(graph, "MatMulNBits", "K", 96), "which don't make rows"),
        (
            "codes",
            lambda graph: with_value(graph, "GroupQueryAttention", "num_heads", 8),
            "num_heads 8, but config.json requires 4",
        ),
        (
            "codes",
            lambda graph: with_value(graph, "GroupQueryAttention", "softcap", 30.0),
            "softcap 30.0, but",
        ),
        (
            "codes",
            lambda graph: graph.graph.node.append(helper.make_node("Add", ["a", "b"], ["c"])),
            "of type 'Add', which no Phi-3 model has",
        ),
    ],
)
def test_what_is_not_a_phi3_graph_is_refused(
    source: str, spoil: Spoil, reason: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoiled(sources[source], tmp_path / "spoiled", spoil)
    with pytest.raises(CheckpointError, match=reason):
        read_all(folder)


def test_the_graphs_themselves_are_read(sources: dict[str, Path], tmp_path: Path) -> None:
    for source in sources.values():
        read_all(source)
    export_packed(sources["codes"], tmp_path / "out", layout="gptq")


def read_all(folder: Path) -> None:
    model = open_model(folder)
    parts = parts_of(model)
    parts.embedding()
    for index in range(model.config.num_hidden_layers):
        parts.block(index)
    parts.final_norm()
    parts.head()
