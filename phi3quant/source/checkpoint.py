"""Plain safetensors checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    SPLITS,
    Block,
    block_prefix,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.model.config_file import read_config
from phi3quant.source.adapter import merge_adapters
from phi3quant.source.adapter_reference import AdapterReference
from phi3quant.source.tensor_folder import TensorFolder, check_tensors
from phi3quant.source.tensor_names import TextModel, text_model
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread
from phi3quant.source.weight_files import open_tensors


@dataclass(frozen=True)
class SafetensorsModel:
    """Parts of StoredWeights that plain and packed checkpoints share.

    Attributes:
        folder: folder of the model.
        config: configuration of the model.
        store: tensors of the model.
        notes: see StoredModel.
    """

    folder: Path
    config: Phi3Config
    store: TensorFolder
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> Sequence[Path]:
        """See StoredModel."""
        return (self.folder / "config.json", *self.store.files)

    @property
    def weight_bytes(self) -> int:
        """See StoredModel."""
        return self.store.nbytes()

    @property
    def linear_bytes(self) -> int:
        """See StoredModel."""
        return linear_bytes(self.store, self.config)

    def stored(self, name: str) -> torch.Tensor:
        """Embedding or head in its stored type, or as FP32 if it is quantized."""
        return self.store.load(name)

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING)

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(FINAL_NORM)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING if self.config.tie_word_embeddings else HEAD)


@dataclass(frozen=True)
class Checkpoint(SafetensorsModel):
    """A plain FP16, BF16 or FP32 Phi-3 checkpoint; implements StoredWeights."""

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"safetensors {self.store.tensors[block_tensor_name(0, LINEARS[0])].dtype}"

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {key: self.store.load_finite(block_tensor_name(index, key)) for key in BLOCK_TENSORS}

    def stored_linear(self, index: int, key: str) -> torch.Tensor:
        """A matrix in its stored dtype; memory-mapped, so neither read nor checked yet."""
        return self.store.load(block_tensor_name(index, key))

    def stored_block(self, index: int) -> Block:
        """A block with its matrices in their stored dtype.

        The matrices are memory-mapped, so neither read nor checked yet. The norms are FP32.
        """
        names = {key: block_tensor_name(index, key) for key in BLOCK_TENSORS}
        return {
            key: self.store.load(name) if key in LINEARS else self.store.load_finite(name)
            for key, name in names.items()
        }


def open_checkpoint(
    folder: Path,
    config: Phi3Config | None = None,
    adapters: tuple[AdapterReference, ...] = (),
) -> Checkpoint:
    """Open a plain checkpoint and check its configuration and all headers.

    Weights are read only to compare the head of a tied model with its embedding.

    Args:
        folder: folder of the model.
        config: configuration from its config.json, if that has been read.
        adapters: adapters to merge, in this order.

    Raises:
        ConfigError: config.json is missing or not of a Phi-3 model.
        CheckpointError: weights are missing, truncated or of a wrong shape or dtype, or there are
            tensors that don't belong to the model described by config.json.
        AdapterError: as merge_adapters.
    """
    stored = config or read_config(folder)
    return checkpoint_of(text_model(open_tensors(folder), stored), stored, adapters)


def checkpoint_of(
    text: TextModel, stored: Phi3Config, adapters: tuple[AdapterReference, ...] = ()
) -> Checkpoint:
    """Open a plain checkpoint as open_checkpoint does, after its headers have been read.

    Raises:
        CheckpointError: as open_checkpoint.
        AdapterError: as merge_adapters.
    """
    store = text.store
    config, notes = untied_if_different(store, stored)
    shapes = tensor_shapes(config)
    known = {*shapes, HEAD}
    refuse_explained(store.folder, store.tensors, known, config)
    check_tensors(store, shapes)
    notes += refuse_unread(store.folder, store.tensors, known, config)
    notes = (*store.notes, *notes)
    if adapters:
        store = merge_adapters(text, config, adapters)
        store, config, more = _untied_if_adapted(store, config)
        notes += more
    return Checkpoint(store.folder, config, store, notes)


def _untied_if_adapted(
    store: TensorFolder, config: Phi3Config
) -> tuple[TensorFolder, Phi3Config, tuple[str, ...]]:
    """Untie a model if an adapter changes its embedding or head alone.

    The adapter was trained with only that one changed, but PEFT's merge_and_unload changes both.
    """
    if not config.tie_word_embeddings or not {EMBEDDING, HEAD} & set(store.updates):
        return store, config, ()
    note = (
        "an adapter changes the embedding or the head, which the model shares; they are stored "
        "separately from now on"
    )
    tensors = {**store.tensors, HEAD: store.tensors[EMBEDDING]}
    return replace(store, tensors=tensors), config.untied(), (note,)


def untied_if_different(
    store: TensorFolder, config: Phi3Config
) -> tuple[Phi3Config, tuple[str, ...]]:
    """Untie the configuration of a tied model whose files contain a different head.

    As in transformers 5, such a model uses the stored head; a model whose stored head equals the
    embedding stays tied.

    Returns:
        The configuration that fits the weights, and notes for the user.

    Raises:
        CheckpointError: a file can't be read.
    """
    both = HEAD in store.tensors and EMBEDDING in store.tensors
    if not config.tie_word_embeddings or not both or store.same_values(EMBEDDING, HEAD):
        return config, ()
    note = (
        f"config.json ties the head to the embedding, but {HEAD} and {EMBEDDING} differ; "
        "the head is used as it is stored, as by transformers 5"
    )
    return config.untied(), (note,)


def linear_bytes(store: TensorFolder, config: Phi3Config) -> int:
    """Bytes of the blocks' matrices, whether plain or packed into several tensors each."""
    names = [BLOCK_TENSORS[key].name for key in LINEARS]
    names += [part.name for parts in SPLITS.values() for part in parts]
    return store.nbytes(
        *(
            block_prefix(index) + name.removesuffix("weight")
            for index in range(config.num_hidden_layers)
            for name in names
        )
    )
