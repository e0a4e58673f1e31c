"""GGUF, the format of llama.cpp: streamed one tensor at a time, in one file or in parts."""

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
from converters.gguf.metadata import (
    ARCHITECTURE,
    add_config,
    add_vocabulary,
)
from converters.gguf.names import ROPE_LONG, ROPE_SHORT, block_name, outer_name
from converters.gguf.reader import open_gguf
from converters.gguf.repack import repack, type_for
from converters.gguf.scales import check_scales
from converters.gguf.sizes import file_number, natural_type, nbytes, tensor_bytes, tensor_types
from converters.gguf.tokenizer_agreement import agreeing
from converters.gguf.type_policy import (
    FileType,
    linear_type,
)
from converters.gguf.vocabulary import read_vocabulary
from phi3quant.disk.ordered_writer import OrderedWriter
from phi3quant.disk.writeback import Writeback
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    linear_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codec, Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec, BlockTensor
from phi3quant.quant.ggml_types import BlockSize
from phi3quant.quant.scheme import QuantScheme, check_groups
from phi3quant.quant.tensor import Quantized, QuantizedTensor

_AFFINE: Mapping[str, QuantScheme] = {
    "Q4_0": QuantScheme(4, 32),
    "Q4_1": QuantScheme(4, 32, symmetric=False),
    "Q8_0": QuantScheme(8, 32),
}
"""Types that are schemes in groups of 32."""


class GgufWriter:
    """Streams a model into ``FOLDER/NAME-TYPE.gguf``, or into numbered parts of it.

    Matrices come as codes, which are stored as they are where their type holds them, or as FP32.
    """

    def __init__(
        self, folder: Path, source: Source, kind: FileType, split_bytes: int | None = None
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
        reserve(self._writer, config)
        for tensor, (block_type, shape) in self._types.items():
            # The number of bytes of a row is what the library takes for the length of a row.
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
        """None: the file is changed once more (see ``_embed``)."""
        return {}

    def embedding(self, weight: torch.Tensor) -> None:
        """Write the token embeddings [vocab, hidden]; comes first."""
        self._write(outer_name(EMBEDDING), weight)

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        self.tensors(index, {**block.norms, **block.linears})

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """Write the next block from its tensors by their short names."""
        for key in BLOCK_TENSORS:
            self._write(block_name(index, key), block[key])

    def final(self, norm: torch.Tensor, head: torch.Tensor | None) -> None:
        """Write the last norm [hidden] and, of an untied model, the head [vocab, hidden]."""
        self._write(outer_name(FINAL_NORM), norm)
        if head is not None:
            self._write(outer_name(HEAD), head)

    def _write(self, name: str, tensor: torch.Tensor | Quantized) -> None:
        self._order.expect(name)
        try:
            size = self._types[name][0]
            data = _stored(size, tensor)
            check_scales(size, data)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name} can't be written: {error}") from None
        self._order.submit(partial(self._append, data), data.nbytes)

    def _append(self, data: np.ndarray) -> None:
        self._writer.write_tensor_data(data.view(_Written))
        for file, writeback in self._files:
            writeback.grown(file.tell())


class _Written(np.ndarray):
    """What a Python file writes, which says why it can't; numpy's way says only how far it came."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:  # noqa: A002 - numpy's
        """See numpy.ndarray."""
        del sep, format
        fid.write(self.data)


def _stored(size: BlockSize, tensor: torch.Tensor | Quantized) -> np.ndarray:
    """What goes into the file: codes as they are where the type holds them, else encoded anew."""
    kind = TYPES[size.name]
    if isinstance(tensor, BlockTensor) and tensor.kind == kind:
        return tensor.data
    if isinstance(tensor, QuantizedTensor) and _holds(size, tensor.scheme):
        return repack(tensor)
    plain = tensor if isinstance(tensor, torch.Tensor) else tensor.dequantize()
    return kind.encode(plain, None)


def _holds(size: BlockSize, scheme: QuantScheme) -> bool:
    try:
        return type_for(scheme).name == size.name
    except SchemeError:
        return False


def _check_types(kind: FileType, config: Phi3Config) -> None:
    tensor_types(kind, config)


def _check(scheme: QuantScheme, config: Phi3Config) -> None:
    check_groups(scheme, config)
    tensor_types(natural_type(scheme), config)


def _nbytes(config: Phi3Config, scheme: QuantScheme) -> int:
    return nbytes(natural_type(scheme), config)


def codec(name: str) -> Codec:
    """What chooses the codes of a matrix of type ``name``.

    Where that is an affine scheme in groups of 32, the scheme's own search is the better one.
    """
    return AffineCodec(_AFFINE[name]) if name in _AFFINE else BlockCodec(TYPES[name])


def codecs(kind: FileType, config: Phi3Config, index: int) -> Codecs:
    """The codec of each linear of block ``index`` in a file of a kind.

    Raises:
        SchemeError: a type doesn't fit the model's rows.
    """
    shapes = linear_shapes(config)
    return {
        name: codec(linear_type(kind, name, index, config, shapes[name][1]).name)
        for name in LINEARS
    }


def typed_format(kind: FileType) -> Format:
    """GGUF with the types of a kind, whatever the scheme."""
    return Format(
        name=FORMAT.name,
        title=FORMAT.title,
        check=lambda _scheme, config: _check_types(kind, config),
        nbytes=lambda config, _scheme: nbytes(kind, config),
        open=lambda folder, source, _scheme: GgufWriter(folder, source, kind),
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
    open=lambda folder, source, scheme: GgufWriter(folder, source, natural_type(scheme)),
    embed=_embed,
)
