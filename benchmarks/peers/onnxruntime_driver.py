"""Driver for onnxruntime's quantizer of matrix products, run in its own environment.

The matrices of all blocks become one graph of products, each with its own input and output; the
quantizer turns them into MatMulNBits nodes. onnxruntime decodes as well: the product of a node with
the identity is exactly its matrix, because each sum has only one term that isn't zero.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as nbits

from benchmarks.peers.plain import is_linear, parse_job, tensors, write_plain

_OPSET = 21


def prepare(given: argparse.Namespace) -> None:
    """Write the graph of products."""
    nodes, inputs, outputs, weights = [], [], [], []
    for name, tensor in tensors(given.model):
        if not is_linear(name):
            continue
        rows, columns = tensor.shape
        weights.append(numpy_helper.from_array(tensor.float().T.contiguous().numpy(), name))
        nodes.append(helper.make_node("MatMul", [f"{name}.in", name], [f"{name}.out"], name))
        kind = TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(f"{name}.in", kind, ["n", columns]))
        outputs.append(helper.make_tensor_value_info(f"{name}.out", kind, ["n", rows]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    given.artifact.mkdir(parents=True, exist_ok=True)
    onnx.save(_model(graph), _products(given.artifact), save_as_external_data=True)


def quantize(given: argparse.Namespace) -> None:
    """Quantize the graph with the requested algorithm."""
    group, symmetric = given.settings["group_size"], given.settings["symmetric"]
    algorithms = {
        "default": lambda: None,
        "rtn": nbits.RTNWeightOnlyQuantConfig,
        "k_quant": nbits.KQuantWeightOnlyQuantConfig,
        "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=group, bits=4),
    }
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(_products(given.artifact)),
        block_size=group,
        is_symmetric=symmetric,
        algo_config=algorithms[given.settings["algorithm"]](),
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(_quantized(given.artifact)), True)


def read(given: argparse.Namespace) -> None:
    """Decode every matrix by a product with the identity."""
    graph = onnx.load(_quantized(given.artifact)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Float scales and zero points are FP32 here, but FP16 in a model for phones.
    stored = sum(
        array.nbytes // 2 if array.dtype == np.float32 else array.nbytes
        for array in arrays.values()
    )
    nodes = {node.output[0].removesuffix(".out"): node for node in graph.node}
    inputs, outputs = (
        {value.name: value for value in values} for values in (graph.input, graph.output)
    )

    def decode(name: str, source: torch.Tensor) -> torch.Tensor:
        node = nodes[name]
        if node.op_type != "MatMulNBits":
            raise SystemExit(f"{name} was left as it is, a {node.op_type}")
        weights = [numpy_helper.from_array(arrays[each], each) for each in node.input[1:]]
        given_in, given_out = inputs[node.input[0]], outputs[node.output[0]]
        alone = helper.make_graph([node], name, [given_in], [given_out], weights)
        session = ort.InferenceSession(_model(alone).SerializeToString())
        identity = np.eye(source.shape[1], dtype=np.float32)
        (product,) = session.run(None, {given_in.name: identity})
        return torch.from_numpy(product.T.copy())

    write_plain(given.model, given.plain, decode, lambda: stored)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    versions = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def _products(folder: Path) -> Path:
    return folder / "products.onnx"


def _quantized(folder: Path) -> Path:
    return folder / "quantized.onnx"


def main() -> None:
    """Run the requested phase."""
    given = parse_job()
    {"prepare": prepare, "quantize": quantize, "read": read}[given.phase](given)


if __name__ == "__main__":
    main()
