"""Bits of single matrices, chosen for the least loss in folders of a target size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from calib.sensitivity import Costs, measure
from converters.format import Format
from converters.widths import HELD_BITS
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.on_device.moves import codec_for
from phi3quant.quant.gram import Gram
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.scheme_overrides import exact_override
from phi3quant.run.bit_allocation import Option, allocate
from phi3quant.run.mixed_types import sample_of

_NARROW, _WIDE = "narrow", "wide"
_USUAL, _FEW = (4, 8), (3, 4)
"""Fewer and more bits of a mixture, and those for sizes that 4 bits don't reach."""


@dataclass(frozen=True)
class Widths:
    """Choice of bits for each matrix.

    Attributes:
        formats: formats that must hold it, each within ``bits_per_weight``.
        scheme: group size and symmetry of the codes.
        bits_per_weight: limit on the bits of a format's tensors per parameter.
        config: configuration of the model.
    """

    formats: Sequence[Format]
    scheme: QuantScheme
    bits_per_weight: float
    config: Phi3Config

    @property
    def narrow(self) -> QuantScheme:
        """Scheme with the fewest bits."""
        return replace(self.scheme, bits=self._bits[0])

    @cached_property
    def _bits(self) -> tuple[int, int]:
        """Fewer and more bits."""
        usual, _ = _USUAL
        schemes = MatrixSchemes(replace(self.scheme, bits=usual))
        if all(entry.nbytes(self.config, schemes) <= self._limit for entry in self.formats):
            return _USUAL
        few, _ = _FEW
        return _FEW if all(few in HELD_BITS[entry.name] for entry in self.formats) else _USUAL

    def check(self) -> None:
        """Refuse formats that can't hold a mixture, and sizes that no choice reaches.

        Raises:
            SchemeError: there is one.
        """
        probe = self._schemes([block_tensor_name(0, LINEARS[-1])])
        for entry in self.formats:
            entry.check(probe, self.config)
            least = entry.nbytes(self.config, self._schemes([]))
            if least > self._limit:
                smallest = math.ceil(100 * 8 * least / _parameters(self.config)) / 100
                raise SchemeError(
                    f"{self.bits_per_weight:g} bits per weight are too few; with "
                    f"int{self.narrow.bits} in all matrices {entry.title} takes {smallest:g}"
                )

    def choose(self, model: ModelWeights, ids: torch.Tensor, progress: Progress) -> tuple[str, ...]:
        """Choose bits that lower the model's measured loss most for the size.

        Args:
            model: model in full precision.
            ids: calibration windows, int64 [windows, length].
            progress: display of the blocks.

        Returns:
            Overrides for quant.scheme_overrides, one for each matrix that isn't ``narrow``.
        """
        with progress("measuring sensitivity", 2 * self.config.num_hidden_layers) as step:
            costs = measure(model, sample_of(ids), self._errors, step)
        wide = self._allocated(costs)
        return tuple(exact_override(name, self._bits[1]) for name in wide)

    def _errors(
        self, weight: torch.Tensor, inputs: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if inputs is None:
            # The embedding has a type of its own.
            return
        gram = Gram.of(inputs)
        for kind, bits in zip((_NARROW, _WIDE), self._bits, strict=True):
            codec = codec_for(weight.device, AffineCodec(replace(self.scheme, bits=bits)))
            yield kind, codec.quantize_fitted(weight, gram).dequantize() - weight

    def _allocated(self, costs: Costs) -> list[str]:
        """Names of the matrices that get more bits."""
        options = {
            name: [
                Option(kind, nbytes, costs[name][kind])
                for kind, nbytes in ((_NARROW, 0), (_WIDE, price))
            ]
            for name, price in self._prices().items()
        }
        budget = self._spare([])
        while True:
            chosen = allocate(options, max(budget, 0))
            wide = [name for name, kind in chosen.items() if kind == _WIDE]
            excess = -self._spare(wide)
            if excess <= 0 or not wide:
                return wide
            # Gaps between the tensors of a file depend on all of them.
            budget -= excess

    def _prices(self) -> Mapping[str, int]:
        """Bytes that more bits cost each matrix, in the format that they cost most."""
        by_key = {
            key: max(
                entry.nbytes(self.config, self._schemes([block_tensor_name(0, key)]))
                - entry.nbytes(self.config, self._schemes([]))
                for entry in self.formats
            )
            for key in LINEARS
        }
        return {
            block_tensor_name(index, key): price
            for index in range(self.config.num_hidden_layers)
            for key, price in by_key.items()
        }

    def _spare(self, wide: Sequence[str]) -> int:
        """Bytes left in the format with the least room."""
        schemes = self._schemes(wide)
        return self._limit - max(entry.nbytes(self.config, schemes) for entry in self.formats)

    def _schemes(self, wide: Sequence[str]) -> MatrixSchemes:
        scheme = replace(self.scheme, bits=self._bits[1])
        return MatrixSchemes(self.narrow, dict.fromkeys(wide, scheme))

    @property
    def _limit(self) -> int:
        return bytes_at(self.config, self.bits_per_weight)


def bytes_at(config: Phi3Config, bits_per_weight: float) -> int:
    """Bytes of a model with a number of bits per parameter."""
    return math.floor(bits_per_weight * _parameters(config) / 8)


def _parameters(config: Phi3Config) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())
