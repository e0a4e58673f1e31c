"""Options of an ONNX export and their defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme

PORTABLE_OPSET, DEFAULT_OPSET = 14, 21

IR_VERSIONS: Mapping[int, int] = {PORTABLE_OPSET: 8, DEFAULT_OPSET: 10}
"""File versions by operator set, for the sets that can be chosen."""

ACCURACY_LEVELS = range(5)
"""Levels of MatMulNBits: 0 leaves activations unchanged, 4 rounds them to 8-bit integers."""

FLOATS: Mapping[str, str] = {"fp32": "F32", "fp16": "F16"}
"""Types of activations, and of matrices that aren't quantized."""

OUTER_GROUP = 32
"""Group size of a quantized embedding or head; kernels on phones are optimized for it."""

CODES: Mapping[str, QuantScheme] = {
    "int8": QuantScheme(8, OUTER_GROUP),
    "int4": QuantScheme(4, OUTER_GROUP),
}
"""Schemes of a quantized embedding or head, which are not calibrated."""

STORAGES = (*FLOATS, *CODES)


@dataclass(frozen=True)
class OnnxOptions:
    """Layout of an ONNX model; codes and scales of its blocks don't depend on it.

    Attributes:
        accuracy_level: an entry of ACCURACY_LEVELS.
        embedding, head: keys of FLOATS or CODES; None for the default (see ``settled``).
        opset: a key of IR_VERSIONS.
        io: a key of FLOATS.
        split_bytes: size limit of a data file; None for a single file.

    Raises:
        SchemeError: a choice is unknown, or two choices contradict each other.
    """

    accuracy_level: int = 4
    embedding: str | None = None
    head: str | None = None
    opset: int = DEFAULT_OPSET
    io: str = "fp32"
    split_bytes: int | None = None

    def __post_init__(self) -> None:
        known = {
            "accuracy level": (self.accuracy_level, ACCURACY_LEVELS),
            "embedding": (self.embedding, (None, *STORAGES)),
            "head": (self.head, (None, *STORAGES)),
            "opset": (self.opset, tuple(IR_VERSIONS)),
            "io type": (self.io, tuple(FLOATS)),
        }
        for what, (value, allowed) in known.items():
            if value not in allowed:
                choices = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise SchemeError(f"there is no {what} {value}; choose from {choices}")
        if self.opset == PORTABLE_OPSET and self.embedding in CODES:
            raise SchemeError(
                f"runtimes of opset {PORTABLE_OPSET} can't look up {self.embedding} embeddings; "
                f"choose {' or '.join(FLOATS)}, or opset {DEFAULT_OPSET}"
            )

    def settled(self, config: Phi3Config, *, coded: bool) -> "OnnxOptions":
        """Replace a None in ``embedding`` and ``head`` by the default for a model.

        A tied model has one matrix for both. Two quantized copies of it would take more space than
        the finer one alone, so the head's type holds for both unless both types are chosen.

        Args:
            config: configuration of the model.
            coded: whether its blocks are quantized.
        """
        default = self.io
        if coded:
            # Runtimes of the portable set can't look up codes, and multiply only by 4-bit codes,
            # which are too coarse for a head.
            fits = config.hidden_size % OUTER_GROUP == 0 and self.opset != PORTABLE_OPSET
            default = "int8" if fits else "fp16"
        embedding, head = self.embedding or default, self.head or default
        chosen = None not in (self.embedding, self.head)
        if config.tie_word_embeddings and not chosen and {embedding, head} <= CODES.keys():
            embedding = head
        return replace(self, embedding=embedding, head=head)

    def as_json(self) -> dict[str, Any]:
        """Options as JSON values."""
        return asdict(self)


def storage(choice: str | None) -> QuantScheme | str:
    """Scheme or type of floats for a key of CODES or FLOATS."""
    assert choice is not None, "options must be settled first"
    return CODES[choice] if choice in CODES else FLOATS[choice]
