"""MatMulNBits' tensors unpacked, to compare with the codes that were written."""

import torch

from converters.onnx.repack import NBits
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor


def from_nbits(stored: NBits, scheme: QuantScheme) -> QuantizedTensor:
    """Unpack a matrix.

    Args:
        stored: the operator's inputs.
        scheme: what they hold.
    """
    rows, groups, _ = stored.weight.shape
    codes = _unpack(stored.weight.reshape(rows, -1), scheme.bits)
    zeros = stored.zero_points
    if zeros is not None:
        zeros = _unpack(zeros, scheme.bits)[:, :groups].contiguous()
    return QuantizedTensor(scheme, codes, stored.scales, zeros)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
