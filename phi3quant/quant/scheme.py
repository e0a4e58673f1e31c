"""Quantization schemes: bits, group size and symmetry."""

from dataclasses import dataclass

from phi3quant.errors import SchemeError, require
from phi3quant.units import alternatives

BITS = (2, 3, 4, 5, 6, 8)
"""Bits of a code; each format holds some of them (converters/widths.py)."""
GROUP_SIZES = (16, 32, 64, 128, 256)
WHOLE_ROW = "row"


@dataclass(frozen=True)
class QuantScheme:
    """Integer codes with a scale, and a zero point unless ``symmetric``, for each group of weights.

    A weight is ``(code - zero_point) * scale``. In a symmetric scheme the zero point is the middle
    of the range, ``2 ** (bits - 1)``, and is not stored.

    Attributes:
        bits: bits per code, one of BITS.
        group_size: weights per group, one of GROUP_SIZES; None: a whole row.
        symmetric: whether the zero point is fixed.
    """

    bits: int = 4
    group_size: int | None = 32
    symmetric: bool = True

    def __post_init__(self) -> None:
        require(SchemeError, "bits", self.bits, int)
        require(SchemeError, "group_size", self.group_size, int, None)
        require(SchemeError, "symmetric", self.symmetric, bool)
        if self.bits not in BITS:
            raise SchemeError(f"{self.bits} bits are not supported; choose {alternatives(BITS)}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise SchemeError(
                f"group size {self.group_size} is not supported; "
                f"choose {alternatives((*GROUP_SIZES, WHOLE_ROW))}"
            )

    @property
    def max_code(self) -> int:
        """The largest code; the smallest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric scheme."""
        return 1 << (self.bits - 1)

    def group_width(self, columns: int) -> int:
        """Weights per group in a row of ``columns`` weights.

        Raises:
            SchemeError: ``columns`` is not a multiple of the group size.
        """
        if self.group_size is None:
            return columns
        if columns % self.group_size:
            fitting = [size for size in GROUP_SIZES if columns % size == 0]
            raise SchemeError(
                f"group size {self.group_size} doesn't divide rows of {columns} weights; "
                f"choose {alternatives((*fitting, WHOLE_ROW))}"
            )
        return self.group_size

    def bits_per_weight(self, columns: int) -> float:
        """Stored bits per weight in a row of ``columns`` weights, with FP16 scales and zeros."""
        overhead = 16 if self.symmetric else 16 + self.bits
        return self.bits + overhead / self.group_width(columns)

    def __str__(self) -> str:
        group = "row" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits} {'sym' if self.symmetric else 'asym'} {group}"
