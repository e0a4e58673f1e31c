"""Changes to graphs in memory, so that they can be scored; their weights stay where they are.

A graph is cut before its last product: hidden states of whole texts can be kept, logits can't.
"""

from collections.abc import Iterator

import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.onnx.graph import LOGITS, ROPE_SWITCH, Sizes
from phi3quant.errors import CheckpointError

_PRODUCTS = ("MatMul", "MatMulNBits")
_TORCH_TYPES = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}


def cut(model: ModelProto, hidden_size: int) -> tuple[ModelProto, ModelProto, str]:
    """Cut a model before its head.

    Args:
        model: with an output ``logits``.
        hidden_size: width of what the head reads.

    Returns:
        The body, the head, and the name of the value that the one gives to the other.

    Raises:
        CheckpointError: logits don't come from one product.
    """
    last = next((node for node in model.graph.node if LOGITS in node.output), None)
    if last is None or last.op_type not in _PRODUCTS:
        found = "nothing" if last is None else last.op_type
        raise CheckpointError(
            f"logits come from {found}; only from {' or '.join(_PRODUCTS)} can they be scored"
        )
    if not last.input:
        raise CheckpointError(f"node {last.name!r}, which makes the logits, has no inputs")
    seam = last.input[0]
    kind = next(value for value in model.graph.output if value.name == LOGITS).type.tensor_type
    shape: Sizes = ["batch_size", "sequence_length", hidden_size]
    between = helper.make_tensor_value_info(seam, kind.elem_type, shape)
    caches = [value for value in model.graph.output if value.name != LOGITS]
    body = _part(model, {value.name for value in model.graph.input}, {seam})
    body.graph.output.extend([between, *caches])
    body.graph.input.extend(model.graph.input)
    head = _part(model, {seam}, {LOGITS})
    head.graph.input.append(between)
    head.graph.output.extend(value for value in model.graph.output if value.name == LOGITS)
    return body, head, seam


def _part(model: ModelProto, given: set[str], wanted: set[str]) -> ModelProto:
    """The nodes that lead from ``given`` values to ``wanted`` ones, and the tensors they read."""
    wanted = set(wanted)
    nodes: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= {name for name in _reads(node) if name not in given}
    part = ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        opset_import=model.opset_import,
    )
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(
        tensor for tensor in model.graph.initializer if tensor.name in wanted
    )
    return part


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of the values that a node reads, inside its branches too."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)


def set_accuracy_level(model: ModelProto, level: int) -> None:
    """Let every MatMulNBits compute at ``level``."""
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", level)])


def always_take_long_factors(model: ModelProto) -> bool:
    """Let LongRoPE take its long factors from the first token on; False if there is no switch.

    Whole texts decide on their factors, and a text that is run in pieces starts out short.
    """
    for tensor in model.graph.initializer:
        if tensor.name == ROPE_SWITCH:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values * 0, ROPE_SWITCH))
            return True
    return False


def tensor_type(model: ModelProto, name: str) -> torch.dtype:
    """Type of an input.

    Raises:
        CheckpointError: there is no such input, or it holds no floats.
    """
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    if kinds.get(name) not in _TORCH_TYPES:
        raise CheckpointError(f"the graph has no input {name} of floats")
    return _TORCH_TYPES[kinds[name]]
