"""Phi-3 as an ONNX graph, one function for each part of the model.

Attention is onnxruntime's GroupQueryAttention, which rotates, masks and keeps the cache, so that no
position ids are needed. Every function appends to a Graph and returns the names of its results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from converters.onnx.data import TYPES
from converters.onnx.matrix import Matrix
from converters.onnx.nodes import CONTRIB, Graph
from converters.onnx.sizes import Place, rotary_lengths
from phi3quant.disk.tensor_stream import TensorSpec
from phi3quant.model.architecture import FINAL_NORM, block_tensor_name
from phi3quant.model.config import Phi3Config
from phi3quant.model.rope import rope_tables

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
PAST_KEY, PAST_VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
PRESENT_KEY, PRESENT_VALUE = "present.%d.key", "present.%d.value"
"""Names of inputs and outputs, in the notation of onnxruntime-genai's configuration."""

ROPE_SWITCH = "rope_switch"
"""Name of LongRoPE's threshold: texts with more tokens use the long factors."""

_BATCH, _SEQUENCE, _PAST, _TOTAL = (
    "batch_size",
    "sequence_length",
    "past_sequence_length",
    "total_sequence_length",
)

Sizes: TypeAlias = list[str | int | None]
"""Shape: numbers, and names of sizes that vary between runs."""

Linears: TypeAlias = Mapping[str, Matrix]
"""Matrices of a block: qkv_proj, o_proj, gate_proj, up_proj and down_proj."""


@dataclass(frozen=True)
class Matrices:
    """Matrices of a model.

    Attributes:
        embedding, head: matrices with the same name if they share their tensors.
        blocks: matrices of each block.
        io: type of activations.
    """

    embedding: Matrix
    head: Matrix
    blocks: tuple[Linears, ...]
    io: torch.dtype


@dataclass(frozen=True)
class _Shared:
    """Names of the values that every block reads."""

    lengths: str
    total: str
    cos: str
    sin: str


def build_graph(config: Phi3Config, matrices: Matrices, accuracy_level: int) -> Graph:
    """Build the nodes and announce the tensors of a whole model.

    Args:
        config: configuration of the model.
        matrices: stored form of its matrices.
        accuracy_level: accuracy level of MatMulNBits.
    """
    graph = Graph()
    hidden = matrices.embedding.look_up(graph, IDS, "/model/embed_tokens")
    if config.tie_word_embeddings:
        # A tied head with another storage is written while the embedding is in memory.
        for spec in matrices.head.specify():
            graph.store(spec)
    lengths, total = _lengths(graph)
    cos, sin = _rotary_tables(graph, config, matrices.io, total)
    shared = _Shared(lengths, total, cos, sin)
    residual: str | None = None
    for index, linears in enumerate(matrices.blocks):
        where = f"/model/layers.{index}"
        norm = _norm_spec(config, matrices.io, block_tensor_name(index, "input_layernorm"))
        x, residual = _norm(graph, config, norm, hidden, residual, f"{where}/input_layernorm")
        qkv = linears["qkv_proj"].multiply(graph, x, f"{where}/attn/qkv_proj", accuracy_level)
        mixed = _attention(graph, config, shared, qkv, index)
        x = linears["o_proj"].multiply(graph, mixed, f"{where}/attn/o_proj", accuracy_level)
        norm = _norm_spec(config, matrices.io, block_tensor_name(index, "post_attention_layernorm"))
        x, residual = _norm(graph, config, norm, x, residual, f"{where}/post_attention_layernorm")
        hidden = _gated_mlp(graph, linears, x, f"{where}/mlp", accuracy_level)
    norm = _norm_spec(config, matrices.io, FINAL_NORM)
    x, _ = _norm(graph, config, norm, hidden, residual, "/model/norm")
    matrices.head.multiply(graph, x, "/lm_head", accuracy_level, output=LOGITS)
    return graph


def rotary_pieces(config: Phi3Config, io: torch.dtype) -> dict[str, torch.Tensor]:
    """Tables of cos and sin by name, in the order of writing: ``io`` [positions, pairs]."""
    half = config.rotary_dim // 2
    tables: dict[str, torch.Tensor] = {}
    for ending, length in rotary_lengths(config).items():
        pair = rope_tables(config, length)
        tables[f"cos_cache{ending}"] = pair.cos[:, :half].to(io)
        tables[f"sin_cache{ending}"] = pair.sin[:, :half].to(io)
    return tables


def model_proto(
    graph: Graph,
    config: Phi3Config,
    io: torch.dtype,
    versions: tuple[int, int],
    places: Mapping[str, Place],
) -> ModelProto:
    """Contents of the model's file, without its weights.

    Args:
        graph: graph from build_graph.
        config: configuration of the model.
        io: type of activations.
        versions: operator set and file version.
        places: places of the stored tensors, by name.
    """
    opset, ir_version = versions
    proto = graph.finish("phi3", _inputs(config, io), _outputs(config, io), places)
    return helper.make_model(
        proto,
        ir_version=ir_version,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)],
        producer_name="phi3quant",
    )


def _inputs(config: Phi3Config, io: torch.dtype) -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info(IDS, TensorProto.INT64, [_BATCH, _SEQUENCE]),
        helper.make_tensor_value_info(MASK, TensorProto.INT64, [_BATCH, _TOTAL]),
        *_caches(config, io, (PAST_KEY, PAST_VALUE), _PAST),
    ]


def _outputs(config: Phi3Config, io: torch.dtype) -> list[ValueInfoProto]:
    shape: Sizes = [_BATCH, _SEQUENCE, config.vocab_size]
    return [
        helper.make_tensor_value_info(LOGITS, TYPES[io], shape),
        *_caches(config, io, (PRESENT_KEY, PRESENT_VALUE), _TOTAL),
    ]


def _caches(
    config: Phi3Config, io: torch.dtype, names: Sequence[str], length: str
) -> list[ValueInfoProto]:
    shape: Sizes = [_BATCH, config.num_key_value_heads, length, config.head_dim]
    return [
        helper.make_tensor_value_info(name % index, TYPES[io], shape)
        for index in range(config.num_hidden_layers)
        for name in names
    ]


def _lengths(graph: Graph) -> tuple[str, str]:
    """Lengths by the mask: int32 [batch], tokens of each sequence minus one; int32, the longest."""
    where = "/model/attn_mask"
    one = graph.constant("one", [1], np.int64)
    first = graph.constant("first", 1, np.int64)
    count = graph.node("ReduceSum", [MASK, one], f"{where}/ReduceSum", keepdims=0)
    last = graph.node("Sub", [count, one], f"{where}/Sub")
    lengths = graph.node("Cast", [last], f"{where}/Sub/Cast", to=TensorProto.INT32)
    shape = graph.node("Shape", [MASK], f"{where}/Shape")
    width = graph.node("Gather", [shape, first], f"{where}/Gather", axis=0)
    total = graph.node("Cast", [width], f"{where}/Gather/Cast", to=TensorProto.INT32)
    return lengths, total


def _rotary_tables(
    graph: Graph, config: Phi3Config, io: torch.dtype, total: str
) -> tuple[str, str]:
    """Names of cos and sin, each [positions, rotary_dim / 2]."""
    names = {
        f"{table}{ending}": graph.tensor(
            TensorSpec(f"{table}_cache{ending}", io, (length, config.rotary_dim // 2))
        )
        for ending, length in rotary_lengths(config).items()
        for table in ("cos", "sin")
    }
    if len(names) == 2:
        return names["cos"], names["sin"]
    where = "/model/rotary"
    limit = graph.constant(ROPE_SWITCH, config.original_max_position_embeddings, np.int32)
    is_long = graph.node("Greater", [total, limit], f"{where}/Greater")
    cos, sin = f"{where}/cos", f"{where}/sin"
    branches = {}
    for branch, ending in (("then_branch", "_long"), ("else_branch", "_short")):
        nodes, outputs = [], []
        for table in ("cos", "sin"):
            # The tables stay outside the branches, where their bytes can be external.
            result = f"{where}/{table}{ending}"
            outer = names[f"{table}{ending}"]
            nodes.append(helper.make_node("Identity", [outer], [result], name=result))
            rows: Sizes = ["positions", config.rotary_dim // 2]
            outputs.append(helper.make_tensor_value_info(result, TYPES[io], rows))
        branches[branch] = helper.make_graph(nodes, f"rotary{ending}", [], outputs)
    graph.node("If", [is_long], f"{where}/If", output=cos, more_outputs=[sin], **branches)
    return cos, sin


def _norm_spec(config: Phi3Config, io: torch.dtype, name: str) -> TensorSpec:
    return TensorSpec(name, io, (config.hidden_size,))


def _norm(
    graph: Graph, config: Phi3Config, weight: TensorSpec, x: str, residual: str | None, where: str
) -> tuple[str, str]:
    """RMS norm of ``x`` plus the residual; returns the norm and the sum."""
    gamma = graph.tensor(weight)
    if residual is None:
        # A contrib operator that onnxruntime keeps in the default domain.
        normed = graph.node(
            "SimplifiedLayerNormalization",
            [x, gamma],
            where,
            axis=-1,
            epsilon=config.rms_norm_eps,
            stash_type=1,
        )
        return normed, x
    total = f"{where}/output_3"
    normed = graph.node(
        "SkipSimplifiedLayerNormalization",
        [x, residual, gamma],
        where,
        domain=CONTRIB,
        more_outputs=["", "", total],
        epsilon=config.rms_norm_eps,
    )
    return normed, total


def _attention(graph: Graph, config: Phi3Config, shared: _Shared, qkv: str, index: int) -> str:
    """Causal attention over rows q|k|v, which are rotated first, with the cache of a block.

    The window is the number of tokens that a query sees, including itself, as in config.json.
    """
    where = f"/model/layers.{index}/attn/GroupQueryAttention"
    past = [name % index for name in (PAST_KEY, PAST_VALUE)]
    present = [name % index for name in (PRESENT_KEY, PRESENT_VALUE)]
    return graph.node(
        "GroupQueryAttention",
        # Only nine inputs: older runtimes refuse the later ones, even if they are empty.
        [qkv, "", "", *past, shared.lengths, shared.total, shared.cos, shared.sin],
        where,
        domain=CONTRIB,
        more_outputs=present,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        scale=config.head_dim**-0.5,
        local_window_size=config.sliding_window or -1,
        do_rotary=1,
        rotary_interleaved=0,
    )


def _gated_mlp(graph: Graph, linears: Linears, x: str, where: str, accuracy_level: int) -> str:
    """Gated MLP: down(SiLU(gate) * up)."""
    gate = linears["gate_proj"].multiply(graph, x, f"{where}/gate_proj", accuracy_level)
    up = linears["up_proj"].multiply(graph, x, f"{where}/up_proj", accuracy_level)
    share = graph.node("Sigmoid", [gate], f"{where}/Sigmoid")
    silu = graph.node("Mul", [gate, share], f"{where}/silu")
    gated = graph.node("Mul", [silu, up], f"{where}/gated")
    return linears["down_proj"].multiply(graph, gated, f"{where}/down_proj", accuracy_level)
