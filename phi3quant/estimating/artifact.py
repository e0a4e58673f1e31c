"""Estimated artifacts: sizes of a model's tensors and files in a format."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.gguf.names import outer_name
from converters.gguf.sizes import ALIGNMENT, manifest_room, tensor_bytes, tensor_types
from converters.gguf.type_policy import FileType
from converters.onnx.options import OnnxOptions
from converters.onnx.sizes import check as check_onnx
from converters.onnx.sizes import nbytes as onnx_bytes
from converters.onnx.sizes import plan_matrices, stored_tensors
from converters.packed.sizes import PACKED, packed_tensors
from phi3quant.disk.tensor_plan import plan_shards, safetensors_header
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import CheckpointError
from phi3quant.estimating.members import Described
from phi3quant.model.architecture import EMBEDDING
from phi3quant.quant.matrix_schemes import MatrixSchemes

GGUF, ONNX = "gguf", "onnx"
FORMATS = (GGUF, ONNX, *PACKED)
"""Formats with size estimates."""

# Bytes of a graph and the manifest inside it, fitted to exports of 4 and 30 blocks.
_GRAPH_BYTES, _GRAPH_BYTES_PER_BLOCK = 3_300, 5_040
# Bytes per vocabulary entry of Phi-3 in a GGUF file: text, its length, score and type.
_ENTRY_BYTES = 24
# Bytes of all other keys and values.
_METADATA_BYTES = 2_500


@dataclass(frozen=True)
class SizedTensor:
    """Stored tensor: type by the format's name for it, shape and bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Artifact:
    """Model in a format.

    Attributes:
        format: an entry of FORMATS.
        kind: variant of the format, for display: a GGUF type, or the storage of embedding and head
            in ONNX.
        tensors: all tensors in the order of writing, with exact sizes.
        file_bytes: bytes of the files with weights, including headers and GGUF's vocabulary.
            Tensors and headers of safetensors are exact, the rest is estimated.
        embedding: common start of the names of tensors from which a token reads a single row; None
            if a tied head reads them as a whole.
    """

    format: str
    kind: str
    tensors: tuple[SizedTensor, ...]
    file_bytes: int
    embedding: str | None

    @property
    def name(self) -> str:
        """Name for display, such as ``gguf Q4_0``."""
        return f"{self.format} {self.kind}"

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def read_per_token(self) -> int:
        """Bytes of weights that decoding a token reads: all except other rows of an embedding."""
        unread = self.embedding
        return sum(
            tensor.nbytes // (tensor.shape[0] if unread and tensor.name.startswith(unread) else 1)
            for tensor in self.tensors
        )

    @cached_property
    def rearranged(self) -> int:
        """Bytes of the quantized matrices, except the embedding."""
        first = self.embedding or self.tensors[0].name
        return sum(
            tensor.nbytes
            for tensor in self.tensors
            if tensor.type.startswith("Q") and not tensor.name.startswith(first)
        )

    def bits_per_weight(self, parameters: int) -> float:
        """Stored bits per parameter of the model."""
        return 8 * self.nbytes / parameters


def gguf(model: Described, kind: FileType) -> Artifact:
    """Estimate a GGUF file with the types of ``kind``.

    Raises:
        SchemeError: a type doesn't fit the model's rows.
    """
    config = model.config
    tensors = [
        SizedTensor(name, size.name, shape, tensor_bytes(size, shape))
        for name, (size, shape) in tensor_types(kind, config).items()
    ]
    entries = sum(8 + len(t.name) + 4 + 8 * len(t.shape) + 4 + 8 for t in tensors)
    header = entries + _METADATA_BYTES + manifest_room(config) + _vocabulary_bytes(model)
    padded = sum(-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors)
    embedding = None if config.tie_word_embeddings else outer_name(EMBEDDING)
    others = sorted({name for _, name in kind.overrides} - {kind.name})
    name = f"{kind.name}, some {' and '.join(others)}" if others else kind.name
    return Artifact(GGUF, name, tuple(tensors), header + padded, embedding)


def onnx(model: Described, schemes: MatrixSchemes | None, options: OnnxOptions) -> Artifact:
    """Estimate an ONNX folder.

    Raises:
        SchemeError: the operators can't hold the schemes, the options or the model.
    """
    config = model.config
    check_onnx(schemes, config, options)
    matrices = plan_matrices(config, schemes, options)
    tensors = tuple(
        SizedTensor(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes)
        for tensor in stored_tensors(config, matrices)
    )
    settled = options.settled(config, coded=schemes is not None)
    graph = _GRAPH_BYTES + _GRAPH_BYTES_PER_BLOCK * config.num_hidden_layers
    shared = matrices.head.name == matrices.embedding.name
    return Artifact(
        ONNX,
        f"{schemes or options.io}, embedding {settled.embedding}, head {settled.head}",
        tensors,
        onnx_bytes(config, schemes, options) + graph,
        None if shared else matrices.embedding.name,
    )


def packed(model: Described, schemes: MatrixSchemes, layout: str) -> Artifact:
    """Estimate a packed folder.

    Args:
        model: model to estimate.
        schemes: schemes of its codes.
        layout: a key of converters.packed.sizes.PACKED.

    Raises:
        SchemeError: the layout can't hold the schemes or the model.
    """
    sizes = PACKED[layout]
    sizes.check(schemes, model.config)
    outer = sizes.outer(model.config, schemes.base)
    split = sizes.split(model.config, schemes)
    planned = packed_tensors(model.config, schemes, sizes.matrix, outer=outer, split=split)
    headers = sum(len(safetensors_header(shard, sizes.library)) for shard in plan_shards(planned))
    tensors = tuple(SizedTensor(t.name, t.dtype, t.shape, t.nbytes) for t in planned)
    data = sum(tensor.nbytes for tensor in tensors)
    embedding = None if model.config.tie_word_embeddings else EMBEDDING.removesuffix("weight")
    return Artifact(layout, str(schemes), tensors, data + headers, embedding)


def _vocabulary_bytes(model: Described) -> int:
    """Bytes of the tokenizer in a GGUF file, from the model's files or like Phi-3's."""
    described = _tokenizer(model.folder)
    if not described:
        return _ENTRY_BYTES * model.config.vocab_size
    section = described.get("model")
    section = section if isinstance(section, Mapping) else {}
    texts = {str(piece) for piece in _items(section, "vocab")}
    added = _items(described, "added_tokens")
    texts |= {str(token.get("content")) for token in added if isinstance(token, Mapping)}
    # Each entry has a length of 8 bytes and a type of 4, and for SentencePiece a score of 4.
    entries = sum(map(_bytes, texts)) + 12 * model.config.vocab_size
    fillers = max(0, model.config.vocab_size - len(texts))
    entries += fillers * len("[PAD00000]")
    if section.get("byte_fallback"):
        return entries + 4 * model.config.vocab_size
    merges = _items(section, "merges")
    joined = (
        " ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges
    )
    return entries + sum(8 + _bytes(merge) for merge in joined)


def _items(section: Mapping[str, Any], key: str) -> Collection[Any]:
    """A list, or the keys of an object; empty for any other value."""
    items = section.get(key)
    return items if isinstance(items, list | dict) else ()


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _tokenizer(folder: Path | None) -> dict[str, Any]:
    """Contents of a folder's tokenizer.json; empty if it is missing or can't be read."""
    try:
        return {} if folder is None else read_json_if_there(folder / "tokenizer.json")
    except CheckpointError:
        return {}
