"""Models on disk as readers hand them out, and the plain safetensors checkpoint among them."""

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
    Block,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config, read_config
from phi3quant.source.tensor_folder import TensorFolder, check_tensors, open_tensors
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread


@dataclass(frozen=True)
class Checkpoint:
    """A plain FP16, BF16 or FP32 Phi-3 checkpoint; implements ModelWeights."""

    folder: Path
    config: Phi3Config
    store: TensorFolder
    notes: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"safetensors {self.store.tensors[block_tensor_name(0, LINEARS[0])].dtype}"

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

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING)

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {key: self.store.load_finite(block_tensor_name(index, key)) for key in BLOCK_TENSORS}

    def stored_block(self, index: int) -> Block:
        """A block with its matrices in their stored dtype, not yet read nor checked; norms FP32."""
        names = {key: block_tensor_name(index, key) for key in BLOCK_TENSORS}
        return {
            key: self.store.load(name) if key in LINEARS else self.store.load_finite(name)
            for key, name in names.items()
        }

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(FINAL_NORM)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING if self.config.tie_word_embeddings else HEAD)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a plain checkpoint; config and all headers are checked.

    No weights are read, except to compare the head of a tied model with its embedding.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: weights are missing, truncated, of a wrong shape or dtype, or there are
            tensors that belong to another model than config.json describes.
    """
    stored = read_config(folder)
    store = open_tensors(folder)
    config, notes = untied_if_different(store, stored)
    shapes = tensor_shapes(config)
    known = {*shapes, HEAD}
    refuse_explained(store.folder, store.tensors, known, config)
    check_tensors(store, shapes)
    notes += refuse_unread(store.folder, store.tensors, known, config)
    return Checkpoint(folder, config, store, (*store.notes, *notes))


def untied_if_different(
    store: TensorFolder, config: Phi3Config
) -> tuple[Phi3Config, tuple[str, ...]]:
    """Correct a configuration that ties a head which the files hold apart.

    As in transformers 5, a tied model with another head in its files uses that head; one with an
    equal head stays tied.

    Returns:
        The configuration of the weights, and notes for their owner.

    Raises:
        CheckpointError: a file can't be read.
    """
    both = HEAD in store.tensors and EMBEDDING in store.tensors
    if not config.tie_word_embeddings or not both or store.same_values(EMBEDDING, HEAD):
        return config, ()
    untied = replace(
        config, tie_word_embeddings=False, raw={**config.raw, "tie_word_embeddings": False}
    )
    note = (
        f"config.json ties the head to the embedding, but {HEAD} and {EMBEDDING} differ; "
        "the head is used as it is stored, as by transformers 5"
    )
    return untied, (note,)


def linear_bytes(store: TensorFolder, config: Phi3Config) -> int:
    """Bytes of the blocks' matrices, plain or packed into several tensors each."""
    return store.nbytes(
        *(
            block_tensor_name(index, key).removesuffix("weight")
            for index in range(config.num_hidden_layers)
            for key in LINEARS
        )
    )
