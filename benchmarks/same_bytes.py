"""Comparison of the weights that phi3quant writes before and after a change of its code.

Most changes must not alter a byte of the weights. For each recipe the SHA-256 of all weights is
recorded: for safetensors and ONNX data over the whole file, for GGUF over the tensors and over the
metadata without the manifest, for ONNX graphs over everything except the metadata.

    git stash; python -m benchmarks.same_bytes before.json; git stash pop
    python -m benchmarks.same_bytes after.json --against before.json

With --wide, one block of Phi-3-mini's width is quantized too, which takes a few minutes.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.synthetic import write_checkpoint
from converters.format import MANIFEST_PREFIX
from converters.gguf.embedded_manifest import tensors_sha256
from converters.gguf.file import read_gguf
from converters.onnx.file import read_graph
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.bundled import BUNDLED

_ALL = ("compressed-tensors", "gguf", "onnx")
_QUICK = Calibration(samples=16, length=256)
RECIPES: Mapping[str, Recipe] = {
    "rtn": Recipe("rtn", formats=_ALL),
    "rtn asym": Recipe("rtn", QuantScheme(4, 64, symmetric=False), ("awq-gemm", "onnx")),
    "rtn int8": Recipe("rtn", QuantScheme(8, 32), _ALL),
    "awq": Recipe("awq", formats=_ALL, calibration=_QUICK),
    "awq q4_k_m": Recipe("awq", formats=("gguf",), calibration=_QUICK, gguf_type="q4_k_m"),
    "gptq": Recipe("gptq", formats=("compressed-tensors",), calibration=_QUICK),
}
"""Recipes with which each model is quantized."""
_WIDE = ("rtn", "awq", "gptq")


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    help="Earlier hashes to compare with.",
)
@click.option("--wide", is_flag=True, help="Quantize one block of full width too.")
def main(output: Path, against: Path | None, *, wide: bool) -> None:
    """Write hashes to OUTPUT, and fail if they differ from earlier ones."""
    with tempfile.TemporaryDirectory() as work:
        found = {name: _weights(BUNDLED, recipe, work) for name, recipe in RECIPES.items()}
        if wide:
            folder = Path(work) / "wide"
            write_checkpoint(folder, "mini-4k", layers=1)
            for name in _WIDE:
                found[f"{name}, full width"] = _weights(str(folder), RECIPES[name], work)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if against is None:
        return
    before = json.loads(against.read_text(encoding="utf-8"))
    changed = [
        f"{recipe}: {file}"
        for recipe, files in found.items()
        for file in sorted({*files, *before.get(recipe, {})})
        if files.get(file) != before.get(recipe, {}).get(file)
    ]
    for line in changed or ["all weights are the same"]:
        click.echo(line)
    sys.exit(bool(changed))


def _weights(model: str, recipe: Recipe, work: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder) / "out"
        quantize(model, out, recipe)
        return dict(_hashes(out))


def _hashes(out: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors" or ".onnx.data" in path.name:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".gguf":
            model = read_gguf(path)
            yield f"{name}: tensors", tensors_sha256(model)
            kept = {k: v for k, v in model.fields.items() if not k.startswith(MANIFEST_PREFIX)}
            yield (
                f"{name}: metadata",
                hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest(),
            )
        elif path.suffix == ".onnx":
            graph = read_graph(path.parent)
            del graph.metadata_props[:]
            yield f"{name}: graph", hashlib.sha256(graph.SerializeToString()).hexdigest()


if __name__ == "__main__":
    main()
