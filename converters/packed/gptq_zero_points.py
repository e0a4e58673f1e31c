"""Zero points in the two versions of GPTQ's layout.

Version 2 stores them as they are, version 1 less one. The subtraction is one of whole words, as in
GPTQModel (convert_gptq_v2_to_v1_format), so a zero point of 0 borrows from its neighbour. Other
readers of version 1 add one to each zero point, and GPTQModel refuses asymmetric folders of
version 1 that other tools have written. Symmetric codes are therefore written as version 1, which
every reader accepts, and asymmetric ones as version 2.

With 3 bits, tools disagree on version 1: most subtract one from each zero point, and GPTQModel used
to subtract other constants. Codes of 3 bits are written as version 2, and read from version 1 only
if they are symmetric.
"""

from collections.abc import Mapping

import torch

from converters.packed import bits
from phi3quant.errors import CheckpointError
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor

V1, V2 = "gptq", "gptq_v2"

_ONES: Mapping[int, int] = {4: 0x11111111, 8: 0x01010101}
"""Word with a one in each of its values, by bits."""
_ODD = 3
"""Bits whose values cross words, so that version 1 isn't written."""
_FORMERLY_SUBTRACTED = (0x24924924, 0x92492492, 0x49249249)
"""Constants for three words of 3-bit zero points, by which GPTQModel used to get version 1."""


def version_for(schemes: MatrixSchemes) -> str:
    """Version to write."""
    first = all(scheme.symmetric and scheme.bits != _ODD for scheme in schemes.distinct)
    return V1 if first else V2


def pack_zero_points(tensor: QuantizedTensor, version: str) -> torch.Tensor:
    """Words of a matrix' zero points, the middle for symmetric codes: int32 [groups, words]."""
    zeros = tensor.zero_points
    if zeros is None:
        zeros = torch.full(tensor.scales.shape, tensor.scheme.middle, dtype=torch.uint8)
    words = bits.pack(zeros.T, tensor.scheme.bits)
    return words - _ONES[tensor.scheme.bits] if version == V1 else words


def unpack_zero_points(
    words: torch.Tensor, scheme: QuantScheme, rows: int, version: str
) -> torch.Tensor:
    """Zero points uint8 [rows, groups].

    Raises:
        CheckpointError: zero points of symmetric codes are not the middle, or those of 3-bit codes
            are ambiguous.
    """
    if version == V1 and scheme.bits == _ODD:
        zeros = _odd_zero_points(words, scheme, rows)
    else:
        ones = _ONES[scheme.bits] if version == V1 else 0
        zeros = bits.unpack(words + ones, scheme.bits, rows).T.contiguous()
    if scheme.symmetric and not torch.all(zeros == scheme.middle):
        raise CheckpointError(
            f"not all zero points are {scheme.middle}, although config.json has sym true; "
            "correct sym or checkpoint_format there"
        )
    return zeros


def _odd_zero_points(words: torch.Tensor, scheme: QuantScheme, rows: int) -> torch.Tensor:
    """Zero points of 3-bit codes in version 1, by either way in which it is written."""
    if not scheme.symmetric:
        raise CheckpointError(
            "version 1 of GPTQ stores 3-bit zero points in several ways; save the model as "
            "gptq_v2 with the tool that quantized it"
        )
    constants = torch.tensor(_FORMERLY_SUBTRACTED).to(torch.int32)
    formerly = words + constants.repeat(words.shape[1] // len(constants))
    zeros = bits.unpack(formerly, scheme.bits, rows)
    if not torch.all(zeros == scheme.middle):
        zeros = (bits.unpack(words, scheme.bits, rows) + 1) & scheme.max_code
    return zeros.T.contiguous()
