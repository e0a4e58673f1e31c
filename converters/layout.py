"""What a layout of packed checkpoints is: the bits of one matrix and their description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from phi3quant.config import Phi3Config
from phi3quant.qtensor import QuantizedTensor
from phi3quant.scheme import QuantScheme
from phi3quant.tensor_plan import PlannedTensor


class Specify(Protocol):
    """Announces the tensors that hold a matrix of a given shape."""

    def __call__(self, rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
        """Tensors whose names are endings, such as ``qweight``."""


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
        recognise: the scheme that a ``quantization_config`` describes, or None if it is not of
            this layout; raises SchemeError if it is, but in a form that can't be read.
    """

    name: str
    title: str
    check: Callable[[QuantScheme, Phi3Config], None]
    specify: Specify
    pack: Callable[[QuantizedTensor], Mapping[str, torch.Tensor]]
    unpack: Callable[[Mapping[str, torch.Tensor], tuple[int, int], QuantScheme], QuantizedTensor]
    describe: Callable[[QuantScheme], dict[str, Any]]
    recognise: Callable[[Mapping[str, Any]], QuantScheme | None]
