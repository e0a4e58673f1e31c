"""Bits of the codes that each format holds, as far as its runtimes load them."""

from collections.abc import Mapping, Sequence

from phi3quant.errors import SchemeError
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import BITS
from phi3quant.units import alternatives

HELD_BITS: Mapping[str, Sequence[int]] = {
    # Releases up to 0.17 pad values of 3 bits to words and later ones don't, under the same name.
    # No folder could be loaded by both.
    "compressed-tensors": (4, 8),
    "awq-gemm": (4,),
    "gptq": (3, 4, 8),
    "mlx": BITS,
    "gguf": (4, 8),
    "onnx": (4, 8),
}
"""Bits by the name of the format."""


def check_bits(name: str, title: str, schemes: MatrixSchemes) -> None:
    """Refuse codes that a format can't hold.

    Args:
        name: a key of HELD_BITS.
        title: name of the format in messages.
        schemes: schemes of the matrices.

    Raises:
        SchemeError: a matrix has codes of other bits.
    """
    for scheme in schemes.distinct:
        if scheme.bits not in HELD_BITS[name]:
            raise SchemeError(
                f"{title} holds {alternatives(HELD_BITS[name])} bits, not {scheme.bits}; "
                f"export {alternatives(holders(scheme.bits))} instead"
            )


def holders(bits: int) -> list[str]:
    """Formats that hold codes of ``bits`` bits."""
    return [name for name, widths in HELD_BITS.items() if bits in widths]
