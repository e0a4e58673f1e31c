"""What a layout of packed checkpoints is: the bits of one matrix and their description."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor

_SHOWN = 80


class Specify(Protocol):
    """Announces the tensors that hold a matrix of a given shape."""

    def __call__(self, rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
        """Tensors whose names are endings, such as ``qweight``."""


@dataclass(frozen=True)
class Stated:
    """A ``quantization_config`` of a layout, as far as reading requires it.

    Attributes:
        scheme: of all matrices.
        plain: names of the modules that it leaves plain.
        grouped_by_index: whether a tensor maps each column to its group.
    """

    scheme: QuantScheme
    plain: tuple[str, ...] = ()
    grouped_by_index: bool = False


@dataclass(frozen=True)
class Keys:
    """The keys that a section of a ``quantization_config`` may have.

    Attributes:
        section: for messages.
        free: keys that are read elsewhere, or don't concern stored weights.
        fixed: keys that do concern them, with the values that this program implements.
    """

    section: str
    free: Collection[str]
    fixed: Mapping[str, tuple[Any, ...]]

    def check(self, described: Mapping[str, Any]) -> None:
        """Refuse what would be ignored.

        Raises:
            SchemeError: a key that isn't listed, or a value that isn't; the message names it.
        """
        for key, value in described.items():
            if key in self.free:
                continue
            allowed = self.fixed.get(key)
            if allowed is None:
                raise SchemeError(f"{self.section} has {key!r}, which isn't known and may matter")
            if not any(type(value) is type(known) and value == known for known in allowed):
                raise SchemeError(
                    f"{self.section} has {key} {shown(value)}, which can't be read; "
                    f"only {' or '.join(map(repr, allowed))}"
                )


def shown(value: Any) -> str:
    """A value of a configuration for messages, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@dataclass(frozen=True)
class PackedLayout:
    """A way to store quantized matrices in safetensors.

    Attributes:
        name: on the command line.
        title: in messages.
        check: raises SchemeError if the layout can't hold this scheme for this model.
        specify: the tensors of one matrix, in the order of ``pack``.
        pack: a matrix as tensors, by ending.
        unpack: the matrix again, from its tensors by ending, its shape and scheme.
        describe: config.json's ``quantization_config``.
        recognise: what a ``quantization_config`` states, or None if it is not of this layout;
            raises SchemeError if it is, but in a form that can't be read.
    """

    name: str
    title: str
    check: Callable[[QuantScheme, Phi3Config], None]
    specify: Specify
    pack: Callable[[QuantizedTensor], Mapping[str, torch.Tensor]]
    unpack: Callable[[Mapping[str, torch.Tensor], tuple[int, int], QuantScheme], QuantizedTensor]
    describe: Callable[[QuantScheme], dict[str, Any]]
    recognise: Callable[[Mapping[str, Any]], Stated | None]
