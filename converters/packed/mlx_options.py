"""Options of an MLX folder, without loading torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme

PLAIN = "fp16"
STORAGES = ("int8", "int4", PLAIN)
"""Types of embedding and head; the first is the default."""


@dataclass(frozen=True)
class MlxOptions:
    """Types of an MLX folder's embedding and head, which are not calibrated.

    Attributes:
        embedding, head: entries of STORAGES; None for the default. A tied model has one matrix for
            both, which gets 4 bits only if they are chosen for the head.

    Raises:
        SchemeError: a type is unknown.
    """

    embedding: str | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        for part, value in asdict(self).items():
            if value not in (None, *STORAGES):
                raise SchemeError(
                    f"there is no {part} {value} in MLX; choose from {', '.join(STORAGES)}"
                )

    def settled(self, config: Phi3Config) -> "MlxOptions":
        """Replace a None by the default for a model.

        Raises:
            SchemeError: a tied model is to have two types.
        """
        default = STORAGES[0]
        if not config.tie_word_embeddings:
            return MlxOptions(self.embedding or default, self.head or default)
        if self.head is not None and self.embedding not in (None, self.head):
            raise SchemeError(
                f"the model's embedding serves as its head, so MLX can't store it as "
                f"{self.embedding} and as {self.head}; choose one type"
            )
        kind = self.head or (PLAIN if self.embedding == PLAIN else default)
        return MlxOptions(kind, kind)

    def schemes(self, config: Phi3Config, scheme: QuantScheme) -> dict[str, QuantScheme]:
        """Schemes of the packed ones among embedding and untied head, by name.

        Groups are as large as those of the blocks. Symmetric codes of 8 bits stay the same if they
        are rounded to FP16 weights and quantized again; with 4 bits, zero points matter more.

        Raises:
            SchemeError: as settled.
        """
        chosen = self.settled(config)
        kinds = {EMBEDDING: chosen.embedding, HEAD: chosen.head}
        if config.tie_word_embeddings:
            del kinds[HEAD]
        return {
            name: _outer_scheme(kind, scheme.group_size)
            for name, kind in kinds.items()
            if kind is not None and kind != PLAIN
        }

    def as_json(self) -> dict[str, Any]:
        """Options as JSON values."""
        return asdict(self)


def _outer_scheme(kind: str, group_size: int | None) -> QuantScheme:
    width = {"int8": 8, "int4": 4}[kind]
    return QuantScheme(width, group_size, symmetric=width == 8)


def default_outer(config: Phi3Config, scheme: QuantScheme) -> Mapping[str, QuantScheme]:
    """Schemes of embedding and head by default."""
    return MlxOptions().schemes(config, scheme)
