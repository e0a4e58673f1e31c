"""llama.cpp's tools, built from the sources in the llama-cpp-python package."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ROOT
from benchmarks.peers.environment import PEERS
from benchmarks.peers.job import Job, Settings, Step

PACKAGE = "llama-cpp-python"
BUILT = PEERS / "llama.cpp"
QUANTIZE, IMATRIX = BUILT / "bin" / "llama-quantize", BUILT / "bin" / "llama-imatrix"
WINDOW = 512
"""Tokens in a chunk of text that an importance matrix is measured on."""


def plan(job: Job, settings: Settings) -> Sequence[Step]:
    """Steps of a job.

    Settings are ``type``, as named by llama-quantize; ``imatrix``, whether to use one; and
    optionally ``pure``, whether all matrices get that type. The F16 file for llama-quantize is
    exported by phi3quant, with the weights of the model.
    """
    full = job.shared / "f16"
    export: list[str | Path] = [
        sys.executable,
        "-m",
        "phi3quant",
        "export",
        "gguf",
        job.model,
        "--type",
        "f16",
    ]
    steps = [Step([*export, "-o", full, "--no-verify", "--quiet"], full, timed=False)]
    file, matrix = full / f"{job.model.name}-F16.gguf", job.shared / "imatrix.gguf"
    if settings["imatrix"]:
        measure: list[str | Path] = [
            IMATRIX,
            "-m",
            file,
            "-f",
            job.words,
            "-o",
            matrix,
            "-c",
            str(WINDOW),
        ]
        steps.append(Step([*measure, "-t", str(job.threads), "--no-ppl"], matrix))
    extra: list[str | Path] = ["--imatrix", matrix] if settings["imatrix"] else []
    extra += ["--pure"] if settings.get("pure") else []
    made = job.folder / "artifact" / "model.gguf"
    kind, threads = settings["type"], str(job.threads)
    steps.append(Step(["mkdir", "-p", made.parent], made.parent, timed=False))
    steps.append(Step([QUANTIZE, *extra, file, made, kind, threads]))
    return steps


@dataclass(frozen=True)
class Build:
    """Build of the tools; implements environment.Home."""

    variables: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> None:
        """Build the tools unless they exist."""
        if self.made():
            return
        BUILT.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        constraints = ["-c", ROOT / "constraints.txt"]
        _do([*download, *constraints, "--no-binary", PACKAGE, "-d", BUILT, PACKAGE])
        with tarfile.open(_archive()) as opened:
            opened.extractall(BUILT, filter="data")
        (source,) = BUILT.glob("llama_cpp_python-*/vendor/llama.cpp")
        # A portable build, since one for the native CPU has crashed on AMX.
        options = ["GGML_NATIVE=OFF", "LLAMA_CURL=OFF", "BUILD_SHARED_LIBS=OFF"]
        flags = [f"-D{option}" for option in (*options, "CMAKE_BUILD_TYPE=Release")]
        _do(["cmake", "-B", BUILT, *flags, source])
        targets = [QUANTIZE.name, IMATRIX.name]
        _do(["cmake", "--build", BUILT, "--target", *targets, "-j", str(os.cpu_count() or 1)])

    def made(self) -> bool:
        """Whether the tools exist."""
        return QUANTIZE.exists() and IMATRIX.exists()

    def versions(self) -> dict[str, str]:
        """Version of the package with the sources."""
        return {PACKAGE: _archive().name.removesuffix(".tar.gz").rpartition("-")[2]}


def _archive() -> Path:
    (archive,) = BUILT.glob("llama_cpp_python-*.tar.gz")
    return archive


def _do(command: Sequence[object]) -> None:
    subprocess.run([str(part) for part in command], check=True)
