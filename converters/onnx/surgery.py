"""Changes to graphs in memory for scoring; files of weights are not touched.

A graph is cut before its last product, since hidden states of whole texts fit into memory, and
logits don't.
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
        model: model with an output ``logits``.
        hidden_size: width of the head's input.

    Returns:
        The body, the head, and the name of the value that connects them.

    Raises:
        CheckpointError: the logits are not the result of a single product.
    """
    last = next((node for node in model.graph.node if LOGITS in node.output), None)
    if last is None or last.op_type not in _PRODUCTS:
        origin = "no node" if last is None else last.op_type
        raise CheckpointError(
            f"logits come from {origin}; they can be scored only from {' or '.join(_PRODUCTS)}"
        )
    if not last.input:
        raise CheckpointError(f"node {last.name!r}, which computes the logits, has no inputs")
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


def _part(model: ModelProto, inputs: set[str], outputs: set[str]) -> ModelProto:
    """Nodes that lead from ``inputs`` to ``outputs``, with the tensors that they read."""
    required = set(outputs)
    nodes: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if required & set(node.output):
            nodes.append(node)
            required |= {name for name in _reads(node) if name not in inputs}
    part = ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        opset_import=model.opset_import,
    )
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(
        tensor for tensor in model.graph.initializer if tensor.name in required
    )
    return part


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of the values that a node reads, including those inside its branches."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)


def set_accuracy_level(model: ModelProto, level: int) -> None:
    """Set the accuracy level of every MatMulNBits."""
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", level)])


def always_take_long_factors(model: ModelProto) -> bool:
    """Switch LongRoPE to its long factors from the first token; False if there is no switch.

    A whole text's length decides on its factors, but a text that is run in pieces starts short.
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
        CheckpointError: there is no such input, or it doesn't hold floats.
    """
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    if kinds.get(name) not in _TORCH_TYPES:
        raise CheckpointError(f"the graph has no input {name} of floats")
    return _TORCH_TYPES[kinds[name]]
