"""Schemes of the blocks' matrices: one for most of them, and others for single matrices."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from phi3quant.model.architecture import block_tensor_name, linear_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme


@dataclass(frozen=True)
class MatrixSchemes:
    """Scheme of each matrix of the blocks.

    Attributes:
        base: scheme of all matrices that are not in ``others``.
        others: schemes of single matrices by name, such as ``model.layers.0.mlp.down_proj.weight``.
    """

    base: QuantScheme
    others: Mapping[str, QuantScheme] = field(default_factory=dict)

    def scheme(self, name: str) -> QuantScheme:
        """Scheme of a matrix, by its name in the checkpoint."""
        return self.others.get(name, self.base)

    @property
    def distinct(self) -> tuple[QuantScheme, ...]:
        """All schemes, from few bits to many."""
        schemes = {self.base, *self.others.values()}
        return tuple(sorted(schemes, key=_order))

    def shapes(self, config: Phi3Config) -> dict[QuantScheme, dict[str, tuple[int, int]]]:
        """Shapes of the linears with each scheme, by their names in architecture.LINEARS."""
        shapes: dict[QuantScheme, dict[str, tuple[int, int]]] = {}
        for index in range(config.num_hidden_layers):
            for key, shape in linear_shapes(config).items():
                scheme = self.scheme(block_tensor_name(index, key))
                shapes.setdefault(scheme, {})[key] = shape
        return shapes

    def __str__(self) -> str:
        return " and ".join(map(str, self.distinct))


def matrix_schemes(schemes: Mapping[str, QuantScheme]) -> MatrixSchemes:
    """Canonical form of the schemes of all matrices.

    The base is the scheme of most matrices, and the one with the fewest bits of several.

    Args:
        schemes: scheme of every matrix of the blocks by name.
    """
    counts = Counter(schemes.values())
    base = min(counts, key=lambda scheme: (-counts[scheme], *_order(scheme)))
    return MatrixSchemes(base, {name: scheme for name, scheme in schemes.items() if scheme != base})


def check_groups(schemes: MatrixSchemes, config: Phi3Config) -> None:
    """Check that the rows of every linear are a whole number of groups.

    Raises:
        SchemeError: they aren't.
    """
    for scheme, shapes in schemes.shapes(config).items():
        for _, columns in shapes.values():
            scheme.group_width(columns)


def _order(scheme: QuantScheme) -> tuple[int, int, bool]:
    return scheme.bits, scheme.group_size or 0, scheme.symmetric
