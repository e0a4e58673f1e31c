"""Nodes of an ONNX model that hold Phi-3's weights, by their place in the model.

Builders name nodes and tensors differently, but all keep the names of modules: ``layers.3`` and
``o_proj`` in the path of a node.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, helper

from converters.onnx.graph import IDS, LOGITS
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import LINEARS
from phi3quant.model.config import Phi3Config, shown

_LAYER = re.compile(r"layers\.(\d{1,4})(?=/|\.)")
_MODULE = re.compile(r"(qkv|q|k|v|o|gate_up|gate|up|down)_proj(?=/|\.|$)")
_PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "qkv_proj": (("qkv_proj",), ("q_proj", "k_proj", "v_proj")),
    "o_proj": (("o_proj",),),
    "gate_up_proj": (("gate_up_proj",), ("gate_proj", "up_proj")),
    "down_proj": (("down_proj",),),
}
"""Ways to store a matrix of a block: as a whole, or in parts in the order of their rows."""

PRODUCTS = ("MatMul", "MatMulNBits")
_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
_LOOKUPS = ("Gather", "GatherBlockQuantized")
# Operators that only move, convert or count values; none of them holds weights.
_HARMLESS = (
    *("Cast", "Concat", "Constant", "Expand", "Greater", "GreaterOrEqual", "Identity", "If"),
    *("ReduceSum", "ReduceMax", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Sub"),
    *("Transpose", "Unsqueeze"),
)
_ACTIVATIONS = ("Mul", "Sigmoid", "QuickGelu")
_ATTENTION = "GroupQueryAttention"


@dataclass(frozen=True)
class Roles:
    """Nodes with weights.

    Attributes:
        embedding: lookup of the token embeddings.
        linears: products of each matrix, by block and short name, in the order of their rows.
        norms: two norms of each block.
        final_norm: last norm.
        head: product that computes the logits.
    """

    embedding: NodeProto
    linears: Mapping[tuple[int, str], Sequence[NodeProto]]
    norms: Sequence[tuple[NodeProto, NodeProto]]
    final_norm: NodeProto
    head: NodeProto


def find_roles(graph: ModelProto, config: Phi3Config, file: Path) -> Roles:
    """Find the nodes that hold weights.

    Args:
        graph: a model without weights.
        config: configuration of the model.
        file: file of the graph, for messages.

    Raises:
        CheckpointError: a node is missing, computes something that Phi-3 doesn't, or contradicts
            the configuration.
    """
    nodes = graph.graph.node
    for node in nodes:
        _check(node, config, file)
    norms = [node for node in nodes if node.op_type in _NORMS]
    head = next((n for n in nodes if n.op_type in PRODUCTS and LOGITS in n.output), None)
    embedding = next((n for n in nodes if n.op_type in _LOOKUPS and IDS in n.input), None)
    modules = _modules([n for n in nodes if n.op_type in PRODUCTS and n is not head], file)
    layers = config.num_hidden_layers
    if embedding is None or head is None or len(norms) != 2 * layers + 1:
        raise CheckpointError(
            f"{file} has no embedding, no head or {len(norms)} norms; a Phi-3 model of {layers} "
            f"layers has {2 * layers + 1} norms"
        )
    linears = {
        (index, key): _parts(modules, index, key, file)
        for index in range(layers)
        for key in LINEARS
    }
    if modules:
        raise CheckpointError(
            f"{file} has a product {shown(next(iter(modules.values())).name)}, but config.json "
            f"describes {layers} layers without it"
        )
    pairs = list(zip(norms[:-1:2], norms[1::2], strict=True))
    return Roles(embedding, linears, pairs, norms[-1], head)


def window_notes(graph: ModelProto, config: Phi3Config, file: Path) -> list[str]:
    """Note on a graph whose attention has another window than config.json, as some builders write.

    Weights don't depend on the window, so exports keep that of config.json.
    """
    stated = {
        attributes(node).get("local_window_size", -1)
        for node in graph.graph.node
        if node.op_type == _ATTENTION
    }
    window = config.sliding_window
    if window is None or window >= config.max_position_embeddings or stated == {window}:
        return []
    note = (
        f"{file} attends to all tokens or to another window than config.json's sliding_window of "
        f"{window}; the output keeps that of config.json"
    )
    return [note]


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node, without those of an undefined type."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute if entry.type}


def input_of(node: NodeProto, place: int, file: Path) -> str:
    """Name of an input that a node must have.

    Raises:
        CheckpointError: it has none.
    """
    if len(node.input) <= place or not node.input[place]:
        raise CheckpointError(
            f"{file}: node {shown(node.name)} ({shown(node.op_type)}) has no input {place}"
        )
    return str(node.input[place])


def _check(node: NodeProto, config: Phi3Config, file: Path) -> None:
    """Refuse a node that computes something else than Phi-3 does."""
    if node.op_type in _NORMS:
        _check_number(node, "epsilon", config.rms_norm_eps, file)
    elif node.op_type == _ATTENTION:
        _check_attention(node, config, file)
    elif node.op_type not in (*PRODUCTS, *_HARMLESS, *_LOOKUPS, *_ACTIVATIONS):
        raise CheckpointError(
            f"{file} has a node {shown(node.name)} of type {shown(node.op_type)}, which no Phi-3 "
            "model has; only the runtime can run this graph"
        )


def _modules(products: Sequence[NodeProto], file: Path) -> dict[tuple[int, str], NodeProto]:
    """Products by block and module."""
    modules: dict[tuple[int, str], NodeProto] = {}
    for node in products:
        place = _place(node)
        if place is None or place in modules:
            raise CheckpointError(
                f"{file} has a product {shown(node.name)} that is not a matrix of a Phi-3 model, "
                "or has it twice"
            )
        modules[place] = node
    return modules


def _place(node: NodeProto) -> tuple[int, str] | None:
    """Block and module of a product, by its name or that of its weight."""
    for name in (node.name, *node.input[1:2]):
        layer, module = _LAYER.search(name), _MODULE.search(name)
        if layer is not None and module is not None:
            return int(layer[1]), module[0]
    return None


def _parts(
    modules: dict[tuple[int, str], NodeProto], index: int, key: str, file: Path
) -> list[NodeProto]:
    """Remove the nodes of a matrix from ``modules`` and return them."""
    for names in _PARTS[key]:
        if all((index, name) in modules for name in names):
            return [modules.pop((index, name)) for name in names]
    raise CheckpointError(f"{file} has no {key} in layer {index}")


def _check_attention(node: NodeProto, config: Phi3Config, file: Path) -> None:
    for key, expected in (
        ("num_heads", config.num_attention_heads),
        ("kv_num_heads", config.num_key_value_heads),
        ("scale", 1 / math.sqrt(config.head_dim)),
        ("softcap", 0.0),
    ):
        if key in attributes(node) and not (key == "scale" and attributes(node)[key] == 0):
            _check_number(node, key, expected, file)


def _check_number(node: NodeProto, key: str, expected: float, file: Path) -> None:
    value = attributes(node).get(key)
    if not isinstance(value, int | float) or not math.isclose(value, expected, rel_tol=1e-5):
        raise CheckpointError(
            f"{file}: node {shown(node.name)} has {key} {shown(value)}, but config.json requires "
            f"{expected:g}"
        )
