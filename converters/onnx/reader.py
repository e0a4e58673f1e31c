"""Reader of ONNX folders by any builder, as models that onnxruntime scores."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto
from torch.nn import functional

from converters.onnx.data import all_tensors, check_hashes, check_sizes, external_ends, place_of
from converters.onnx.file import graph_file, read_graph
from converters.onnx.graph import (
    IDS,
    LOGITS,
    MASK,
    PAST_KEY,
    PAST_VALUE,
    PRESENT_KEY,
    PRESENT_VALUE,
)
from converters.onnx.session import Session, to_tensor
from converters.onnx.surgery import (
    always_take_long_factors,
    cut,
    set_accuracy_level,
    tensor_type,
)
from phi3quant.errors import CheckpointError, InputError
from phi3quant.model.config import Phi3Config
from phi3quant.model.config_file import read_config
from phi3quant.model.predictor import PIECE_ROWS, CountSteps, Predictions

# Tokens in one run: several windows, or a piece of one.
_RUN_TOKENS = 2048


@dataclass(frozen=True)
class OnnxModel:
    """Folder with a graph and its weights; implements StoredModel and Predictor.

    Attributes:
        folder: folder of the model.
        config: contents of its config.json.
        graph: graph without weights.
        accuracy_level: accuracy level for scoring; None for the graph's.
    """

    folder: Path
    config: Phi3Config
    graph: ModelProto
    accuracy_level: int | None = None

    @property
    def notes(self) -> Sequence[str]:
        """See StoredModel; always empty, since the runtime reads the whole graph."""
        return ()

    @property
    def format(self) -> str:
        """See StoredModel."""
        product = _first_product(self.graph)
        if product is None:
            return f"ONNX {'F16' if _cache_type(self.graph) == torch.float16 else 'F32'}"
        kinds = sorted({_kind(node) for node in _products(self.graph) if _is_in_a_block(node)})
        kinds = kinds or [_kind(product)]
        return f"ONNX {' and '.join(f'int{bits} {kind} g{size}' for bits, size, kind in kinds)}"

    @property
    def stored_level(self) -> int | None:
        """Accuracy level of the graph; None if nothing is quantized."""
        product = _first_product(self.graph)
        return None if product is None else _integers(product).get("accuracy_level", 0)

    @property
    def file(self) -> Path:
        """File of the graph."""
        return graph_file(self.folder)

    @property
    def files(self) -> Sequence[Path]:
        """See StoredModel."""
        return (self.folder / "config.json", self.file, *self._data_files())

    @property
    def weight_bytes(self) -> int:
        """See StoredModel; bytes shared by several tensors count once."""
        return self._nbytes(self.graph.graph.initializer)

    @property
    def linear_bytes(self) -> int:
        """See StoredModel."""
        return self._nbytes(
            tensor
            for tensor in self.graph.graph.initializer
            if "layers." in tensor.name and "norm" not in tensor.name
        )

    @property
    def steps(self) -> int:
        """See Predictor: the number of blocks, although each step is a share of the text."""
        return self.config.num_hidden_layers

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """See Predictor; keeps the hidden states, FP32 [windows, length, hidden], in memory.

        Raises:
            CheckpointError: a data file is damaged, or the runtime refuses the model.
            InputError: windows are longer than the model's context.
            RuntimeTooOldError: onnxruntime is too old.
        """
        length, config = windows.shape[1], self.config
        if length > config.max_position_embeddings:
            raise InputError(
                f"windows of {length} tokens are longer than the context of {self.folder}, "
                f"{config.max_position_embeddings} tokens; choose a shorter context"
            )
        check_hashes(self.folder, [path.name for path in self._data_files()])
        graph = ModelProto()
        graph.CopyFrom(self.graph)
        if self.accuracy_level is not None:
            set_accuracy_level(graph, self.accuracy_level)
        piece = _RUN_TOKENS
        is_long = config.long_rope and length > config.original_max_position_embeddings
        if is_long and not always_take_long_factors(graph):
            piece = length
        body, head, seam = cut(graph, config.hidden_size)
        run = _Run(Session(body, self.folder), config, seam, _cache_type(graph))
        parts = []
        for batch, step in _shares(windows, max(1, piece // length), self.steps):
            parts.append(run.states(batch, piece))
            tell(step)
        rows = torch.cat(parts)[:, :-1].flatten(0, 1)
        return lambda: _log_probabilities(head, self.folder, seam, rows)

    def _data_files(self) -> list[Path]:
        return [self.folder / name for name in _ends(self.folder, self.graph)]

    def _nbytes(self, tensors: Iterable[TensorProto]) -> int:
        where = self.file
        places = {
            place_of(tensor, where)
            for tensor in tensors
            if tensor.data_location == TensorProto.EXTERNAL
        }
        return sum(place.nbytes for place in places)


@dataclass(frozen=True)
class _Run:
    """Body of a model, which computes hidden states."""

    session: Session
    config: Phi3Config
    seam: str
    cache_type: torch.dtype

    def states(self, windows: torch.Tensor, piece: int) -> torch.Tensor:
        """Hidden states of windows [batch, length], FP32 [batch, length, hidden].

        Windows longer than ``piece`` tokens must come one at a time: with a cache and more than one
        token per text, the operator accepts only a single text.
        """
        shape = (len(windows), self.config.num_key_value_heads, 0, self.config.head_dim)
        empty = torch.zeros(shape, dtype=self.cache_type)
        caches: dict[str, Any] = dict.fromkeys(self._names(PAST_KEY, PAST_VALUE), empty)
        states, seen = [], 0
        for ids in torch.split(windows, piece, dim=1):
            seen += ids.shape[1]
            mask = torch.ones(len(windows), seen, dtype=torch.int64)
            more = seen < windows.shape[1]
            names = self._names(PRESENT_KEY, PRESENT_VALUE) if more else []
            feeds = {IDS: ids.contiguous(), MASK: mask, **caches}
            hidden, *present = self.session.run([self.seam, *names], feeds)
            caches = dict(zip(caches, present, strict=False))
            states.append(to_tensor(hidden))
        return torch.cat(states, dim=1)

    def _names(self, *patterns: str) -> list[str]:
        return [
            pattern % index
            for index in range(self.config.num_hidden_layers)
            for pattern in patterns
        ]


def open_onnx(folder: Path) -> OnnxModel:
    """Open a folder with a graph; sizes of data files are checked, no weights are read.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: the graph can't be read, or a data file is missing or cut short.
    """
    config = read_config(folder)
    graph = read_graph(folder)
    if not any(value.name == LOGITS for value in graph.graph.output):
        raise CheckpointError(
            f"{graph_file(folder)} is not a language model: it has no output {LOGITS}"
        )
    product = _first_product(graph)
    if product is not None and _integers(product).get("block_size", 0) < 1:
        raise CheckpointError(
            f"{graph_file(folder)}: node {product.name!r} (MatMulNBits) has no block_size"
        )
    check_sizes(folder, _ends(folder, graph))
    return OnnxModel(folder, config, graph)


def at_levels(model: OnnxModel) -> dict[int, OnnxModel]:
    """The model at its graph's accuracy level and at level 0, without rounded activations."""
    stored = model.stored_level
    if not stored:
        return {0: model}
    return {stored: model, 0: replace(model, accuracy_level=0)}


def _shares(windows: torch.Tensor, size: int, steps: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Batches of windows, each with its share of ``steps``."""
    batches = torch.split(windows, size)
    marks = [steps * done // len(batches) for done in range(len(batches) + 1)]
    for batch, (before, after) in zip(batches, pairwise(marks), strict=True):
        yield batch, after - before


def _log_probabilities(
    head: ModelProto, folder: Path, seam: str, states: torch.Tensor
) -> Iterator[torch.Tensor]:
    session = Session(head, folder)
    dtype = tensor_type(head, seam)
    for rows in torch.split(states, PIECE_ROWS):
        (logits,) = session.run([LOGITS], {seam: rows[None].to(dtype)})
        yield functional.log_softmax(to_tensor(logits)[0], dim=-1)


def _cache_type(graph: ModelProto) -> torch.dtype:
    return tensor_type(graph, PAST_KEY % 0)


def _ends(folder: Path, graph: ModelProto) -> dict[str, int]:
    return external_ends(all_tensors(graph), graph_file(folder))


def _first_product(graph: ModelProto) -> NodeProto | None:
    return next(_products(graph), None)


def _products(graph: ModelProto) -> Iterator[NodeProto]:
    return (node for node in graph.graph.node if node.op_type == "MatMulNBits")


def _is_in_a_block(product: NodeProto) -> bool:
    return any("layers." in name for name in product.input[1:2])


def _kind(product: NodeProto) -> tuple[int, int, str]:
    """Bits, group size and symmetry of a matrix."""
    settings = _integers(product)
    symmetry = "asym" if len(product.input) > 3 and product.input[3] else "sym"
    return settings.get("bits", 4), settings.get("block_size", 0), symmetry


def _integers(node: NodeProto) -> dict[str, int]:
    """Integer attributes of a node."""
    return {entry.name: entry.i for entry in node.attribute if entry.type == AttributeProto.INT}
