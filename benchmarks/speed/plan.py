"""Measurements as data: tasks, sizes of models and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.peers.job import Settings
from benchmarks.peers.tools import OURS


@dataclass(frozen=True)
class Size:
    """Size of a job.

    Attributes:
        shape: key of benchmarks.synthetic.SHAPES.
        layers: number of decoder blocks, in addition to embedding and head.
        samples: number of calibration windows of 512 tokens.
        threads: number of threads for the tool.
    """

    shape: str
    layers: int
    samples: int
    threads: int

    @property
    def model(self) -> str:
        """Name of the model's folder."""
        return f"{self.shape}-{self.layers}"


@dataclass(frozen=True, eq=False)
class Task:
    """A task for a tool; compared by identity.

    Attributes:
        name: unique name for tables.
        tool: key of benchmarks.peers.tools.TOOLS.
        settings: settings of that tool.
        beside: name of our task to which this one's time is compared; None for ours.
    """

    name: str
    tool: str
    settings: Settings
    beside: str | None = None

    @property
    def title(self) -> str:
        """Tool and name."""
        return f"{self.tool} {self.name}"


@dataclass(frozen=True)
class Turn:
    """Tasks that alternate at one size, so that other load on the machine affects all of them.

    Attributes:
        name: heading of the table.
        size: size of the model and the calibration.
        tasks: keys of TASKS, in order.
        rounds: number of rounds; one for expensive tasks.
    """

    name: str
    size: Size
    tasks: tuple[str, ...]
    rounds: int


def _own(name: str, arguments: str) -> Task:
    return Task(name, OURS, {"arguments": arguments.split()})


def _peer(tool: str, name: str, beside: str, **settings: Any) -> Task:
    return Task(name, tool, settings, beside)


_TASKS = (
    _own("rtn", "rtn"),
    _own("rtn to ONNX", "rtn --export onnx --embedding int4 --head int4"),
    _own("Q4_K_M", "export gguf --type q4_k_m"),
    _own("packed to GGUF", "export gguf"),
    _own("packed to ONNX", "export onnx"),
    _own("awq", "awq"),
    _own("awq without compensation", "awq --no-compensate"),
    _own("perplexity", "perplexity --window 1024 --max-tokens 16384"),
    _peer("llama.cpp", "llama-quantize Q4_0", "rtn", type="Q4_0", imatrix=False),
    _peer("llama.cpp", "llama-quantize Q4_K_M", "Q4_K_M", type="Q4_K_M", imatrix=False),
    _peer(
        "onnxruntime",
        "MatMulNBits quantizer",
        "rtn",
        algorithm="default",
        group_size=32,
        symmetric=True,
    ),
    _peer("onnxruntime-genai", "model builder", "rtn to ONNX", group_size=32),
    _peer("GPTQModel", "GPTQ", "awq", method="gptq", group_size=32, symmetric=True),
    _peer("llm-compressor", "GPTQ", "awq", method="gptq", group_size=32, symmetric=True),
    _peer("AutoAWQ", "AWQ", "awq", group_size=64),
)
TASKS: Mapping[str, Task] = {task.title if task.beside else task.name: task for task in _TASKS}
"""All tasks: ours by their name, the peers' by their title."""

_PLAIN = (
    *("rtn", "llama.cpp llama-quantize Q4_0", "onnxruntime MatMulNBits quantizer"),
    *("Q4_K_M", "llama.cpp llama-quantize Q4_K_M"),
    *("rtn to ONNX", "onnxruntime-genai model builder"),
    *("packed to GGUF", "packed to ONNX", "perplexity"),
)
_AWQ = ("awq", "awq without compensation")
_CALIBRATED = (*_AWQ, "GPTQModel GPTQ", "llm-compressor GPTQ")
GROWING = ("rtn", "awq", "llama.cpp llama-quantize Q4_0")
"""Tasks whose growth is measured; for its time, that of GPTQModel is measured with layers only."""

_NARROWER: Mapping[str, Sequence[str]] = {"mini-4k": ("mini-quarter", "mini-half", "mini-4k")}


def comparisons(base: Size, rounds: int) -> Sequence[Turn]:
    """Turns that compare phi3quant with its peers.

    Args:
        base: size of the first two turns; AutoAWQ would take hours, so its turn has one layer.
        rounds: rounds of the first two turns; AutoAWQ's turn has one.
    """
    least = replace(base, layers=1, samples=max(1, base.samples // 4))
    return (
        Turn("Without calibration", base, _PLAIN, rounds),
        Turn("With calibration", base, _CALIBRATED, rounds),
        Turn("AutoAWQ", least, (*_AWQ, "AutoAWQ AWQ"), 1),
    )


def growth(base: Size, rounds: int) -> Mapping[str, Sequence[Turn]]:
    """Turns by axis; in each axis only one quantity grows, from the smallest to the largest."""
    layers = [replace(base, layers=number) for number in (1, 2, 4)]
    widths = [replace(base, shape=shape) for shape in _NARROWER.get(base.shape, (base.shape,))]
    samples = [replace(base, samples=max(1, base.samples * n // 4)) for n in (1, 2, 4)]
    threads = [replace(base, threads=number) for number in (1, 2)]
    axes = {"layers": layers, "width": widths, "samples": samples, "threads": threads}
    tasks = {"layers": (*GROWING, "GPTQModel GPTQ"), "samples": ("awq",)}
    return {
        axis: [Turn(axis, size, tasks.get(axis, GROWING), rounds) for size in sizes]
        for axis, sizes in axes.items()
    }
