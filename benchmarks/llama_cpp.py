"""llama.cpp's own quantizer beside phi3quant: same model, same text, same scoring code, one run.

The tools are built from the sources in the llama-cpp-python package, under build/peers.
llama-imatrix reads the text that phi3quant calibrates on; every file is scored by phi3quant's GGUF
reader.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from calib.corpus import load_corpus, render
from phi3quant.cli.display import print_evaluation
from phi3quant.tokenizer import load_tokenizer
from phi3quant.verification import EvaluationText, evaluate

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"
TOOLS = ("llama-quantize", "llama-imatrix")
BUILT = ROOT / "build" / "peers" / "llama.cpp"
TYPES = ("Q4_0", "Q4_K_M")


@dataclass(frozen=True)
class Line:
    """A command that made a file, and the seconds it took."""

    name: str
    file: Path
    seconds: float


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=ROOT / "models" / "real")
@click.option("--calib", default="general", show_default=True, help="Text to calibrate on.")
@click.option("--samples", default=64, show_default=True, help="Windows of 512 to learn from.")
@click.option("--text", default="general", show_default=True, help="Text to score on.")
@click.option("--window", default=512, show_default=True, help="Tokens in a scored window.")
@click.option("--max-tokens", type=int, help="Score only so much of the text.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROOT / "build/bench-llama")
def main(
    model: Path,
    calib: str,
    samples: int,
    text: str,
    window: int,
    max_tokens: int | None,
    threads: int,
    output: Path,
) -> None:
    """Quantize MODEL to GGUF with both tools and print times, sizes and quality."""
    _build_tools()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    own = [sys.executable, "-m", "phi3quant"]
    common = ["--no-verify", "--quiet", "--threads", str(threads)]
    _run([*own, "export", "gguf", str(model), "--type", "f16", "-o", str(output / "f16"), *common])
    full = next((output / "f16").glob("*.gguf"))
    matrix = output / "imatrix.gguf"
    tokenizer = load_tokenizer(model)
    words = output / "calibration.txt"
    words.write_text(render(load_corpus(calib, "calibration"), tokenizer), encoding="utf-8")
    measured = _run(
        [
            *(str(BUILT / "bin" / "llama-imatrix"), "-m", str(full), "-f", str(words)),
            *("-o", str(matrix), "-c", "512", "-t", str(threads), "--no-ppl"),
            *("--chunks", str(samples)),
        ]
    )
    click.echo(f"llama-imatrix: {measured:.1f} s")
    lines = []
    for kind in TYPES:
        for name, extra in (("", []), (" imatrix", ["--imatrix", str(matrix)])):
            file = output / f"llama-{kind}{name.replace(' ', '-')}.gguf"
            command = [str(BUILT / "bin" / "llama-quantize"), *extra, str(full), str(file), kind]
            lines.append(Line(f"llama-quantize {kind}{name}", file, _run([*command, str(threads)])))
        folder = output / f"plain-{kind}"
        command = [*own, "export", "gguf", str(model), "--type", kind, "-o", str(folder), *common]
        seconds = _run(command)
        lines.append(Line(f"phi3quant export {kind}", next(folder.glob("*.gguf")), seconds))
    for kind in TYPES:
        folder = output / f"awq-{kind}"
        command = [*own, "awq", str(model), "--export", "gguf", "-o", str(folder), *common]
        command += ["--gguf-type", kind, "--calib", calib, "--samples", str(samples)]
        seconds = _run(command)
        lines.append(Line(f"phi3quant awq {kind}", next(folder.glob("*.gguf")), seconds))
    for line in lines:
        megabytes = line.file.stat().st_size / 1e6
        click.echo(f"{line.name:<28} {line.seconds:8.1f} s  {megabytes:8.2f} MB")
    scored = EvaluationText(text, length=window, max_tokens=max_tokens)
    print_evaluation(evaluate([full, *(line.file for line in lines)], scored))


def _build_tools() -> None:
    if all((BUILT / "bin" / tool).exists() for tool in TOOLS):
        return
    BUILT.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    _run([*download, *constraints, "--no-binary", PACKAGE, "-d", str(BUILT), PACKAGE])
    (archive,) = BUILT.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(BUILT, filter="data")
    (source,) = BUILT.glob("llama_cpp_python-*/vendor/llama.cpp")
    options = ["GGML_NATIVE=OFF", "LLAMA_CURL=OFF", "BUILD_SHARED_LIBS=OFF"]
    flags = [f"-D{option}" for option in (*options, "CMAKE_BUILD_TYPE=Release")]
    _run(["cmake", "-B", str(BUILT), *flags, str(source)])
    _run(["cmake", "--build", str(BUILT), "--target", *TOOLS, "-j", str(os.cpu_count() or 1)])


def _run(command: list[str]) -> float:
    """Run a command; gives its seconds."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:4])}... failed:\n{done.stderr[-1500:]}")
    return time.monotonic() - started


if __name__ == "__main__":
    main()
