"""Choices that an ONNX export leaves to its user, and what they default to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme

PORTABLE_OPSET, DEFAULT_OPSET = 14, 21

IR_VERSIONS: Mapping[int, int] = {PORTABLE_OPSET: 8, DEFAULT_OPSET: 10}
"""Operator sets that can be chosen, with the file version that goes with each."""

ACCURACY_LEVELS = range(5)
"""Of MatMulNBits: 0 leaves activations alone, 4 rounds them to 8 bits for integer products."""

FLOATS: Mapping[str, str] = {"fp32": "F32", "fp16": "F16"}
"""Types of inputs, outputs and everything between, and of matrices that aren't quantized."""

OUTER_GROUP = 32
"""Weights that share a scale in an embedding or head; phones' kernels are made for it."""

CODES: Mapping[str, QuantScheme] = {
    "int8": QuantScheme(8, OUTER_GROUP),
    "int4": QuantScheme(4, OUTER_GROUP),
}
"""How a quantized embedding or head is stored; neither is calibrated."""

STORAGES = (*FLOATS, *CODES)


@dataclass(frozen=True)
class OnnxOptions:
    """How an ONNX model is laid out; codes and scales of the blocks don't depend on it.

    Attributes:
        accuracy_level: one of ACCURACY_LEVELS.
        embedding, head: keys of FLOATS or CODES; None: see ``settled``.
        opset: a key of IR_VERSIONS.
        io: a key of FLOATS.
        split_bytes: start another data file before one grows past this.

    Raises:
        SchemeError: a choice is unknown, or two don't go together.
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
                f"opset {PORTABLE_OPSET} is for runtimes that can't look {self.embedding} "
                f"embeddings up; choose {' or '.join(FLOATS)}, or opset {DEFAULT_OPSET}"
            )

    def settled(self, config: Phi3Config, scheme: QuantScheme | None) -> "OnnxOptions":
        """With the embedding and the head that a model gets by default.

        Args:
            config: the model's sizes.
            scheme: of its blocks; None: they are plain.
        """
        default = self.io
        if scheme is not None:
            # Runtimes that want the portable set look no codes up, and multiply by those of 4 bits
            # alone, which are too few for a head.
            fits = config.hidden_size % OUTER_GROUP == 0 and self.opset != PORTABLE_OPSET
            default = "int8" if fits else "fp16"
        return replace(self, embedding=self.embedding or default, head=self.head or default)

    def as_json(self) -> dict[str, Any]:
        """The choices as plain values."""
        return asdict(self)


def storage(choice: str | None) -> QuantScheme | str:
    """What a key of FLOATS or CODES stands for."""
    assert choice is not None, "settled options have no None"
    return CODES[choice] if choice in CODES else FLOATS[choice]
