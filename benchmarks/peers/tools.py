"""Table of the tools to compare."""

import ast
import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT
from benchmarks.peers import genai, llama_cpp, own
from benchmarks.peers.environment import Environment
from benchmarks.peers.job import Job, Settings, Step, Tool, driver

OURS = "phi3quant"
OLDER = "†"
"""Mark in tables for results of an older version of the source; see ``source_of``."""


def _driven(environment: Environment, module: str, *phases: str) -> Tool:
    """Tool with a driver whose phases are run in order."""

    def plan(job: Job, settings: Settings) -> Sequence[Step]:
        phase = driver(environment, f"benchmarks.peers.{module}", job, settings)
        return [phase(name) for name in phases]

    return Tool(
        environment.name,
        plan,
        environment,
        decoded="read" in phases,
        sources=(f"peers/{module}.py", "peers/plain.py"),
    )


_AUTOAWQ = Environment(
    "AutoAWQ",
    # The last release of AutoAWQ, with transformers of that time.
    ("torch==2.13.0", "transformers==4.51.3", "accelerate", "datasets", "zstandard", "tqdm"),
    # Its declared dependencies include CUDA kernels, which are useless on a CPU.
    unaided=("autoawq==0.2.9",),
)
_AUTOROUND = Environment(
    "AutoRound",
    (
        "torch==2.13.0",
        "transformers==5.23.0",
        "auto-round==0.16.1",
        "compressed-tensors==0.17.1",
    ),
)
_GPTQMODEL = Environment(
    "GPTQModel",
    # It requires torch 2.14.1 or newer. Installing it runs a build that needs the other packages.
    ("torch==2.14.1", "gptqmodel==7.7.0"),
    variables={"GPTQMODEL_CPU_WORKERS": "2"},
)
_HQQ = Environment("HQQ", ("torch==2.13.0", "transformers==4.57.1", "hqq==0.2.8.post1"))
_ONNXRUNTIME = Environment(
    "onnxruntime",
    (
        "torch==2.13.0",
        "onnxruntime==1.32.0",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
        "safetensors==0.8.0",
    ),
)
_GENAI = Environment(
    "onnxruntime-genai",
    (
        *("torch==2.13.0", "transformers==5.23.0", "onnxruntime==1.32.0", "onnx==1.23.2"),
        *("onnx-ir==1.1.0", "onnxruntime-genai==0.18.0"),
    ),
)
_LLM_COMPRESSOR = Environment("llm-compressor", ("torch==2.13.0", "llmcompressor==0.14.0.1"))
_MLX = Environment(
    "mlx-lm",
    (
        *("torch==2.13.0", "transformers==5.23.0"),
        *("mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm==0.32.2"),
    ),
)
_NNCF = Environment("NNCF", ("torch==2.13.0", "transformers==5.23.0", "nncf==3.4.0"))

# Parts of phi3quant that affect neither weights nor scores.
_TELLING = (
    *("auditing", "cluster", "estimating", "gating", "reporting", "sweep", "progress.py"),
    *("run/time_estimate.py", "run/preflight.py", "run/tuning_cost.py"),
)
# Parts that affect only commands with one of these arguments.
_ON_REQUEST: Mapping[Sequence[str], Sequence[str]] = {
    ("--tune", "best"): ("phi3quant/tuning",),
    ("--target-bpw",): (
        *("phi3quant/run/mixed_types.py", "phi3quant/run/mixed_widths.py"),
        *("phi3quant/run/bit_allocation.py", "calib/sensitivity.py"),
    ),
}

TOOLS: Mapping[str, Tool] = {
    OURS: Tool(OURS, own.plan),
    "llama.cpp": Tool(
        "llama.cpp", llama_cpp.plan, llama_cpp.Build(), sources=("peers/llama_cpp.py",)
    ),
    "GPTQModel": _driven(_GPTQMODEL, "gptqmodel_driver", "quantize", "read"),
    "HQQ": _driven(_HQQ, "hqq_driver", "read"),
    "onnxruntime": _driven(
        _ONNXRUNTIME,
        "onnxruntime_driver",
        "prepare",
        "quantize",
        "read",
    ),
    "onnxruntime-genai": Tool("onnxruntime-genai", genai.plan(_GENAI.python), _GENAI),
    "AutoAWQ": _driven(_AUTOAWQ, "autoawq_driver", "quantize"),
    "llm-compressor": _driven(_LLM_COMPRESSOR, "llmcompressor_driver", "quantize"),
    "NNCF": _driven(_NNCF, "nncf_driver", "quantize", "read"),
    "mlx-lm": _driven(_MLX, "mlx_driver", "quantize"),
    "AutoRound": _driven(_AUTOROUND, "autoround_driver", "quantize"),
}
"""All tools by name."""


def versions_of(name: str) -> dict[str, str]:
    """Versions of an installed tool's packages, by name."""
    home = TOOLS[name].home
    if home:
        return home.versions()
    used = {package: version(package) for package in ("phi3quant", "torch", "numpy")}
    return used | {"python": platform.python_version()}


def source_of(name: str, settings: Settings) -> str:
    """Hash of the code that affects a row: phi3quant itself, or the driver of a peer.

    Comments, formatting and docstrings don't count, and neither do parts of phi3quant that affect
    no results, or none with these settings.
    """
    tool = TOOLS[name]
    if tool.name != OURS:
        return _hash_of(tuple(ROOT / "benchmarks" / source for source in tool.sources))
    arguments = {*settings["arguments"]}
    idle = {ROOT / "phi3quant" / part for part in _TELLING}
    for words, parts in _ON_REQUEST.items():
        idle |= {ROOT / part for part in parts if arguments.isdisjoint(words)}
    packages = ("phi3quant", "converters", "calib")
    files = sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))
    return _hash_of(tuple(file for file in files if idle.isdisjoint((file, *file.parents))))


def _hash_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(_parsed(file.read_bytes()))
    return digest.hexdigest()


@cache
def _parsed(source: bytes) -> bytes:
    """Syntax tree of a module without docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree).encode()
