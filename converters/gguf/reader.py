"""Reader of Phi-3 GGUF files by any converter, as models to score."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import LlamaFileType

from converters.gguf.file import GgufModel, read_gguf
from converters.gguf.metadata import parse_metadata
from converters.gguf.names import ROPE_LONG, ROPE_SHORT, block_name, outer_name
from converters.gguf.unread_tensors import refuse_unread
from phi3quant.disk.first_bytes import GGUF_MAGIC, starts_with
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Block,
    Shape,
)
from phi3quant.model.config import Phi3Config
from phi3quant.source.locate import GGUF_SUFFIX

_SPLIT: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "gate_up_proj": ("ffn_gate", "ffn_up"),
}
"""Parts of fused matrices that other converters store separately, in the order of rows."""


@dataclass(frozen=True)
class GgufCheckpoint:
    """GGUF model that implements ModelWeights by dequantizing."""

    path: Path
    config: Phi3Config
    model: GgufModel

    @property
    def notes(self) -> Sequence[str]:
        """See StoredModel."""
        return ()

    @property
    def format(self) -> str:
        """See StoredModel."""
        kinds = Counter(
            self.model.tensors[name].type.name
            for key in LINEARS
            for name in _names(self.model, 0, key)
        )
        number = self.model.fields.get("general.file_type")
        known = isinstance(number, int) and number in set(LlamaFileType)
        name = LlamaFileType(number).name.split("_", 1)[1] if known else kinds.most_common(1)[0][0]
        return f"GGUF {name}"

    @property
    def files(self) -> Sequence[Path]:
        """See StoredModel."""
        return self.model.files

    @property
    def weight_bytes(self) -> int:
        """See StoredModel."""
        return sum(stored.nbytes for stored in self.model.tensors.values())

    @property
    def linear_bytes(self) -> int:
        """See StoredModel."""
        return sum(
            self.model.tensors[name].nbytes
            for index in range(self.config.num_hidden_layers)
            for key in LINEARS
            for name in _names(self.model, index, key)
        )

    def tensor_names(self, index: int, key: str) -> tuple[str, ...]:
        """Names of the stored tensors that hold one tensor of a block, fused or split."""
        return _names(self.model, index, key)

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.load(outer_name(EMBEDDING))

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {
            key: torch.cat([self.model.load(name) for name in _names(self.model, index, key)])
            for key in BLOCK_TENSORS
        }

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.load(outer_name(FINAL_NORM))

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.load(outer_name(EMBEDDING if self.config.tie_word_embeddings else HEAD))


def open_gguf(path: Path) -> GgufCheckpoint:
    """Open a GGUF file (or the first of its parts), or the only one in a folder.

    Raises:
        CheckpointError: it is not a Phi-3 GGUF file, or a tensor is missing or mis-shaped.
    """
    model = read_gguf(_single_file(path))
    embedding = model.tensors.get(outer_name(EMBEDDING))
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path} has no embedding")
    try:
        config = parse_metadata(
            model.fields,
            embedding.shape[0],
            tied=outer_name(HEAD) not in model.tensors,
            factors=_rope_factors(model),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_shapes(model, config)
    refuse_unread(path, model, config, _read_names(model, config))
    return GgufCheckpoint(path, config, model)


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is a GGUF file, or a folder that holds one instead of config.json."""
    if path.is_dir():
        return not (path / "config.json").exists() and any(path.glob("*.gguf"))
    return path.suffix == GGUF_SUFFIX or starts_with(path, GGUF_MAGIC)


def _single_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.gguf"))
    first = [file for file in files if "-of-" not in file.stem or "-00001-of-" in file.stem]
    if len(first) != 1:
        raise CheckpointError(
            f"{path} holds {len(first)} GGUF models, not one; give the path of a file"
        )
    return first[0]


def _rope_factors(model: GgufModel) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if ROPE_LONG not in model.tensors:
        return None
    short, long = model.load(ROPE_SHORT), model.load(ROPE_LONG)
    return tuple(short.flatten().tolist()), tuple(long.flatten().tolist())


def _check_shapes(model: GgufModel, config: Phi3Config) -> None:
    wide = (config.vocab_size, config.hidden_size)
    _check(model, (outer_name(EMBEDDING),), wide)
    _check(model, (outer_name(FINAL_NORM),), (config.hidden_size,))
    if not config.tie_word_embeddings:
        _check(model, (outer_name(HEAD),), wide)
    for index in range(config.num_hidden_layers):
        for key, role in BLOCK_TENSORS.items():
            _check(model, _names(model, index, key), role.shape(config))


def _read_names(model: GgufModel, config: Phi3Config) -> set[str]:
    """Names of all tensors that the model consists of."""
    names = {outer_name(EMBEDDING), outer_name(FINAL_NORM), outer_name(HEAD)}
    if config.long_rope is not None:
        names |= {ROPE_LONG, ROPE_SHORT}
    for index in range(config.num_hidden_layers):
        for key in BLOCK_TENSORS:
            names.update(_names(model, index, key))
    return names


def _check(model: GgufModel, names: tuple[str, ...], shape: Shape) -> None:
    parts = [_stored(model, name) for name in names]
    stored: Shape = (sum(part[0] for part in parts), *parts[0][1:])
    if stored != shape or any(part[1:] != parts[0][1:] for part in parts):
        raise CheckpointError(
            f"tensor {' + '.join(names)} in {model.files[0]} is {list(stored)}; "
            f"its metadata requires {list(shape)}"
        )


def _stored(model: GgufModel, name: str) -> Shape:
    if name not in model.tensors:
        raise CheckpointError(f"{model.files[0]} has no tensor {name}")
    return model.tensors[name].shape


def _names(model: GgufModel, index: int, key: str) -> tuple[str, ...]:
    """Names of the stored tensors that hold one tensor of a block, fused or split."""
    apart = tuple(f"blk.{index}.{part}.weight" for part in _SPLIT.get(key, ()))
    # The first part decides, since ffn_up is also the name of the fused matrix.
    return apart if apart and apart[0] in model.tensors else (block_name(index, key),)
