"""Rows of the comparison: tools with their settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.job import Settings
from benchmarks.peers.tools import OURS


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the table; compared by identity.

    Attributes:
        name: unique name for tables.
        tool: key of benchmarks.peers.tools.TOOLS.
        settings: settings of that tool.
        small: whether it takes too long for any model but phi3-tiny.
    """

    name: str
    tool: str
    settings: Settings
    small: bool = False

    @property
    def title(self) -> str:
        """Tool and name."""
        return f"{self.tool} {self.name}"


def _own(name: str, arguments: str) -> Entry:
    return Entry(name, OURS, {"arguments": arguments.split()})


def _peer(tool: str, name: str, **settings: Any) -> Entry:
    return Entry(name, tool, settings)


ENTRIES: Sequence[Entry] = (
    _own("sym g32", "awq"),
    _own("sym g64", "awq --group-size 64"),
    _own("sym g128", "awq --group-size 128"),
    _own("asym g32", "awq --asym"),
    _own("asym g64", "awq --asym --group-size 64"),
    _own("asym g128", "awq --asym --group-size 128"),
    _own("sym g32, rtn", "rtn"),
    _own("sym g32, awq alone", "awq --no-compensate"),
    _own("sym g32, gptq alone", "gptq"),
    _own("asym g64, rtn", "rtn --asym --group-size 64"),
    _own("asym g64, awq alone", "awq --asym --group-size 64 --no-compensate"),
    _own("phone-fast (Q4_0)", "awq --preset phone-fast --export gguf"),
    _own("phone-quality (Q4_K_M)", "awq --preset phone-quality"),
    _own("small (packed)", "awq --preset small --export compressed-tensors"),
    _own("Q4_1", "awq --export gguf --gguf-type q4_1"),
    _own("IQ4_XS", "awq --export gguf --gguf-type iq4_xs"),
    _own("Q3_K_M", "awq --export gguf --gguf-type q3_k_m"),
    _own("profile adreno", "awq --profile adreno"),
    _own("iphone (MLX)", "awq --preset iphone"),
    # Tuned on the windows that every tool gets.
    _own("best (Q4_0)", "awq --preset best --export gguf --tune-windows 64"),
    _own("phone-quality, tuned", "awq --preset phone-quality --tune --tune-windows 64"),
    _own("4.8 bits", "awq --export gguf --target-bpw 4.8"),
    _own("5.2 bits", "awq --export gguf --target-bpw 5.2"),
    _own("5.6 bits", "awq --export gguf --target-bpw 5.6"),
    _peer("GPTQModel", "GPTQ sym g32", method="gptq", group_size=32, symmetric=True),
    _peer("GPTQModel", "GPTQ asym g64", method="gptq", group_size=64, symmetric=False),
    _peer("GPTQModel", "AWQ asym g64", method="awq", group_size=64, symmetric=False),
    _peer("llm-compressor", "AWQ sym g32", method="awq", group_size=32, symmetric=True),
    _peer("llm-compressor", "GPTQ sym g32", method="gptq", group_size=32, symmetric=True),
    _peer("HQQ", "g32", group_size=32),
    _peer("HQQ", "g64", group_size=64),
    _peer("onnxruntime", "default sym g32", algorithm="default", group_size=32, symmetric=True),
    _peer("onnxruntime", "default asym g32", algorithm="default", group_size=32, symmetric=False),
    _peer("onnxruntime", "RTN sym g32", algorithm="rtn", group_size=32, symmetric=True),
    _peer("onnxruntime", "HQQ g32", algorithm="hqq", group_size=32, symmetric=False),
    _peer("onnxruntime", "k_quant g32", algorithm="k_quant", group_size=32, symmetric=False),
    _peer("llama.cpp", "Q4_0", type="Q4_0", imatrix=False),
    _peer("llama.cpp", "Q4_0 imatrix", type="Q4_0", imatrix=True),
    _peer("llama.cpp", "Q4_1", type="Q4_1", imatrix=False),
    _peer("llama.cpp", "Q4_1 imatrix", type="Q4_1", imatrix=True),
    _peer("llama.cpp", "Q4_K_M", type="Q4_K_M", imatrix=False),
    _peer("llama.cpp", "Q4_K_M imatrix", type="Q4_K_M", imatrix=True),
    _peer("llama.cpp", "Q4_0 pure imatrix", type="Q4_0", imatrix=True, pure=True),
    _peer("llama.cpp", "IQ4_XS imatrix", type="IQ4_XS", imatrix=True),
    _peer("llama.cpp", "Q3_K_M imatrix", type="Q3_K_M", imatrix=True),
    _peer("NNCF", "scale estimation, sym g32", group_size=32),
    _peer("mlx-lm", "asym g64", group_size=64, learning_rate=0),
    Entry("DWQ asym g64", "mlx-lm", {"group_size": 64, "learning_rate": 1e-5}, small=True),
    _peer("AutoAWQ", "asym g64, repaired, 32 windows", group_size=64, samples=32),
    _peer("AutoRound", "sym g32, 200 iterations", iterations=200, group_size=32, symmetric=True),
)
"""All rows, ours first; the slowest peer comes last, so that an interrupted run has the rest."""


def chosen(only: Sequence[str]) -> list[Entry]:
    """Entries whose title contains one of these words; ``ours`` and ``peers`` select by side."""

    def wanted(entry: Entry) -> bool:
        side = "ours" if entry.tool == OURS else "peers"
        return any(word == side or word.lower() in entry.title.lower() for word in only)

    return [entry for entry in ENTRIES if not only or wanted(entry)]
