"""Bits of single matrices, chosen for the least loss in folders of a target size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from calib.sensitivity import Costs, measure
from converters.format import Format
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.progress import Progress
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.gram import Gram
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.scheme_overrides import WIDTHS, exact_override
from phi3quant.run.bit_allocation import Option, allocate
from phi3quant.run.mixed_types import sample_of
from phi3quant.source.checkpoint import Checkpoint

_NARROW, _WIDE = sorted(WIDTHS, key=lambda kind: WIDTHS[kind])


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
        return replace(self.scheme, bits=WIDTHS[_NARROW])

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
                smallest = 8 * least / _parameters(self.config)
                raise SchemeError(
                    f"{self.bits_per_weight:g} bits per weight are too few; with {_NARROW} in all "
                    f"matrices {entry.title} takes {math.ceil(smallest * 100) / 100:g}"
                )

    def choose(
        self, checkpoint: Checkpoint, ids: torch.Tensor, progress: Progress
    ) -> tuple[str, ...]:
        """Choose bits that lower the model's measured loss most for the size.

        Args:
            checkpoint: model in full precision.
            ids: calibration windows, int64 [windows, length].
            progress: display of the blocks.

        Returns:
            Overrides for quant.scheme_overrides, one for each matrix that isn't ``narrow``.
        """
        with progress("measuring sensitivity", 2 * self.config.num_hidden_layers) as step:
            costs = measure(checkpoint, sample_of(ids), self._errors, step)
        wide = self._allocated(costs)
        return tuple(exact_override(name, WIDTHS[_WIDE]) for name in wide)

    def _errors(
        self, weight: torch.Tensor, inputs: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if inputs is None:
            # The embedding has a type of its own.
            return
        gram = Gram.of(inputs)
        for kind, bits in WIDTHS.items():
            codec = AffineCodec(replace(self.scheme, bits=bits))
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
        scheme = replace(self.scheme, bits=WIDTHS[_WIDE])
        return MatrixSchemes(self.narrow, dict.fromkeys(wide, scheme))

    @property
    def _limit(self) -> int:
        return bytes_at(self.config, self.bits_per_weight)


def bytes_at(config: Phi3Config, bits_per_weight: float) -> int:
    """Bytes of a model with a number of bits per parameter."""
    return math.floor(bits_per_weight * _parameters(config) / 8)


def _parameters(config: Phi3Config) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())
