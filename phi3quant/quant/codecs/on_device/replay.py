"""Replay of many small operations at once, as a CUDA graph.

Starting an operation takes a few microseconds, which is more than the operation itself takes on a
column of weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Outputs = TypeVar("Outputs", bound=tuple[torch.Tensor, ...])
_Key = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


@dataclass(frozen=True)
class _Captured(Generic[Outputs]):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, ...]
    outputs: Outputs


class Replayed(Generic[Outputs]):
    """A function of tensors that is captured on its first call with certain shapes, then replayed.

    The function must not read values of tensors on the CPU. On devices other than CUDA it is simply
    called. Outputs are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Outputs]) -> None:
        self._function = function
        self._captured: dict[_Key, _Captured[Outputs]] = {}

    def __call__(self, *inputs: torch.Tensor) -> Outputs:
        """Call the function, or replay it with these inputs."""
        if inputs[0].device.type != "cuda":
            return self._function(*inputs)
        key = tuple((each.shape, each.dtype, each.device) for each in inputs)
        if key not in self._captured:
            self._captured[key] = self._capture(inputs)
        captured = self._captured[key]
        for mine, given in zip(captured.inputs, inputs, strict=True):
            mine.copy_(given)
        captured.graph.replay()
        return captured.outputs

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> _Captured[Outputs]:
        own = tuple(each.clone() for each in inputs)
        with torch.cuda.device(own[0].device):
            # Libraries prepare themselves in a first call, which a graph can't contain.
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._function(*own)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Meanwhile another thread may copy the next block.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*own)
        return _Captured(graph, own, outputs)
