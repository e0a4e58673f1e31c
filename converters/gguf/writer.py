"""Writer of GGUF files, which streams one tensor at a time into one file or into parts."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.utility import size_label

from converters.format import Format, Source
from converters.gguf.embedded_manifest import fill, reserve
from converters.gguf.importance import Importance, add_origin
from converters.gguf.metadata import (
    ARCHITECTURE,
    add_config,
    add_vocabulary,
)
from converters.gguf.names import ROPE_LONG, ROPE_SHORT, block_name, outer_name
from converters.gguf.reader import open_gguf
from converters.gguf.repack import AFFINE, repack
from converters.gguf.scales import check_scales
from converters.gguf.sizes import (
    file_number,
    holds,
    limit_notes,
    natural_type,
    nbytes,
    tensor_bytes,
    tensor_types,
)
from converters.gguf.tokenizer_agreement import agreeing
from converters.gguf.type_policy import (
    FileType,
    linear_type,
)
from converters.gguf.vocabulary import read_vocabulary
from phi3quant.disk.ordered_writer import OrderedWriter
from phi3quant.disk.writeback import Writeback
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    linear_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.notices import notify
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codec, Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec, BlockTensor
from phi3quant.quant.ggml_types import BlockSize
from phi3quant.quant.matrix_schemes import MatrixSchemes, check_groups
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor, floats


class GgufWriter:
    """Writer of a model into ``FOLDER/NAME-TYPE.gguf``, or into numbered parts of it.

    Codes are stored unchanged if the type of their tensor holds them; other codes and floats are
    encoded.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        kind: FileType,
        split_bytes: int | None = None,
        importance: Importance | None = None,
    ) -> None:
        config = source.config
        vocabulary = agreeing(
            read_vocabulary(source.folder, config.vocab_size, source.tokenizer),
            source.tokenizer,
            str(source.folder),
        )
        folder.mkdir(parents=True, exist_ok=True)
        name = source.stem
        self._config, self._types = config, tensor_types(kind, config)
        self._importance = {} if importance is None else importance.vectors
        self._writer = GGUFWriter(
            folder / f"{name}-{kind.name}.gguf",
            ARCHITECTURE,
            split_max_size=split_bytes or 0,
        )
        self._writer.add_type("model")
        self._writer.add_name(vocabulary.model_name(name))
        parameters = sum(math.prod(shape) for _, shape in self._types.values())
        self._writer.add_size_label(size_label(parameters, 0, 0, 0))
        add_config(self._writer, config, file_number(kind, config))
        add_vocabulary(self._writer, vocabulary)
        if importance is not None:
            add_origin(self._writer, importance)
        reserve(self._writer, config)
        for tensor, (block_type, shape) in self._types.items():
            # The library expects the bytes of a row as the length of the row.
            rows = tuple(shape[:-1])
            self._writer.add_tensor_info(
                tensor,
                (*rows, block_type.row_bytes(shape[-1])),
                np.dtype(np.uint8),
                tensor_bytes(block_type, shape),
                raw_dtype=block_type.type,
            )
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()
        self._order = OrderedWriter(self._types, self._writer.close)
        self._files = [(file, Writeback(file.fileno())) for file in self._writer.fout or ()]
        if config.long_rope is not None:
            for tensor, factors in (
                (ROPE_LONG, config.long_rope.long_factor),
                (ROPE_SHORT, config.long_rope.short_factor),
            ):
                self._write(tensor, torch.tensor(factors))

    def complete(self) -> None:
        """See Completable."""
        self._order.complete()

    def abandon(self) -> None:
        """See Completable."""
        self._order.abandon()

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """Always empty, since ``_embed`` changes the file once more."""
        return {}

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """Write the token embeddings [vocab, hidden]; called first."""
        self._write(outer_name(EMBEDDING), weight)

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        self.tensors(index, {**block.norms, **block.linears})

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """Write the next block, given its tensors by short name."""
        for key in BLOCK_TENSORS:
            self._write(block_name(index, key), block[key])

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """Write the last norm [hidden] and an untied head [vocab, hidden]."""
        self._write(outer_name(FINAL_NORM), norm)
        if head is not None:
            self._write(outer_name(HEAD), head)

    def _write(self, name: str, tensor: torch.Tensor | Quantized) -> None:
        self._order.expect(name)
        try:
            size = self._types[name][0]
            data = _stored(size, tensor, self._importance.get(name))
            check_scales(size, data)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name} can't be written: {error}") from None
        self._order.submit(partial(self._append, data), data.nbytes)

    def _append(self, data: np.ndarray) -> None:
        self._writer.write_tensor_data(data.view(_Written))
        for file, writeback in self._files:
            writeback.grown(file.tell())


class _Written(np.ndarray):
    """Array written by its Python file, whose errors give a reason; numpy's don't."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:  # noqa: A002 - numpy's
        """See numpy.ndarray."""
        del sep, format
        fid.write(self.data)


def _stored(
    size: BlockSize, tensor: torch.Tensor | Quantized, importance: torch.Tensor | None
) -> np.ndarray:
    """Bytes to store: codes unchanged if the type holds them, otherwise encoded.

    Args:
        size: type of the blocks.
        tensor: weights or codes.
        importance: FP32 [columns], for encoding; None to count all columns alike.
    """
    kind = TYPES[size.name]
    if isinstance(tensor, BlockTensor) and tensor.kind == kind:
        return tensor.data
    affine = QuantizedTensor | OffsetTensor
    if isinstance(tensor, affine) and holds(size.name, tensor.scheme):
        return repack(tensor)
    return kind.encode(floats(tensor), importance)


def _check_types(kind: FileType, config: Phi3Config) -> None:
    tensor_types(kind, config)
    notify(limit_notes(kind, config))


def _check(schemes: MatrixSchemes, config: Phi3Config) -> None:
    check_groups(schemes, config)
    tensor_types(natural_type(schemes), config)


def _nbytes(config: Phi3Config, schemes: MatrixSchemes) -> int:
    return nbytes(natural_type(schemes), config)


def codec(name: str) -> Codec:
    """Codec for matrices of block type ``name``.

    Types that hold an affine scheme in groups of 32 use the scheme's search, which is better; Q4_1
    holds real offsets.
    """
    if name not in AFFINE:
        return BlockCodec(TYPES[name])
    return AffineCodec(AFFINE[name], real_offsets=not AFFINE[name].symmetric)


def codecs(kind: FileType, config: Phi3Config, index: int) -> Codecs:
    """Codecs of the linears of block ``index`` in a file of this kind.

    Raises:
        SchemeError: a type doesn't fit the model's rows.
    """
    shapes = linear_shapes(config)
    return {
        name: codec(linear_type(kind, name, index, config, shapes[name][1]).name)
        for name in LINEARS
    }


def typed_format(kind: FileType) -> Format:
    """Format for GGUF with the types of ``kind``, regardless of the schemes."""
    return Format(
        name=FORMAT.name,
        title=FORMAT.title,
        check=lambda _schemes, config: _check_types(kind, config),
        nbytes=lambda config, _schemes: nbytes(kind, config),
        open=lambda folder, source, _schemes: GgufWriter(folder, source, kind),
        embed=FORMAT.embed,
    )


def _embed(folder: Path, strings: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    fill(open_gguf(folder).model, strings)
    return {}


FORMAT = Format(
    name="gguf",
    title="GGUF",
    check=_check,
    nbytes=_nbytes,
    open=lambda folder, source, schemes: GgufWriter(folder, source, natural_type(schemes)),
    embed=_embed,
    real_offsets=True,
)
