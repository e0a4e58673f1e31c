"""Memory that runtimes really take, beside what was estimated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from converters.gguf.type_policy import file_type
from converters.onnx.options import OnnxOptions
from phi3quant.estimating.artifact import Artifact, gguf, onnx
from phi3quant.estimating.members import describe
from phi3quant.estimating.memory import run_memory
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe

# Resident bytes before a runtime has anything and after it has read a text, all and without files.
_MEASURE = """
import json

def resident():
    found = dict(line.split(":") for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return [int(found[key].split()[0]) * 1024 for key in ("Rss", "Anonymous")]
"""
_LLAMA = (
    _MEASURE
    + """
import sys
import llama_cpp
before = resident()
model = llama_cpp.Llama(sys.argv[1], n_ctx=int(sys.argv[2]), n_threads=1, verbose=False)
model.eval([5] * 256)
print(json.dumps([after - start for after, start in zip(resident(), before)]))
"""
)
_ONNX = (
    _MEASURE
    + """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import onnxruntime
from converters import open_model
from converters.onnx.decoder import OnnxDecoder
opened = open_model(Path(sys.argv[1]))
before = resident()
# Kept, so that its cache is there when it is measured.
decoder = OnnxDecoder(opened)
decoder.feed([5] * int(sys.argv[2]))
print(json.dumps([after - start for after, start in zip(resident(), before)]))
"""
)

if not Path("/proc/self/smaps_rollup").is_file():
    pytest.skip("only Linux tells resident memory in this way", allow_module_level=True)


def measure(script: str, artifact: Path, context: int) -> tuple[int, int]:
    """Resident and dirty bytes that came with a model, its cache of ``context`` and a text."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(artifact), str(context)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    resident, dirty = json.loads(done.stdout)
    return resident, dirty


def check(told: Artifact, folder: Path, context: int, found: tuple[int, int]) -> None:
    memory = run_memory(describe(str(folder)).config, told, context, "f16", OnnxOptions())
    resident, dirty = found
    assert memory.resident[0] <= resident <= memory.resident[1]
    assert memory.dirty[0] <= dirty <= memory.dirty[1]


@pytest.mark.parametrize("context", [512, 2048])
@pytest.mark.parametrize("kind", ["q4_0", "f16"])
def test_llama_cpp_stays_in_the_range(kind: str, context: int, real: Path, tmp_path: Path) -> None:
    export_gguf(real, tmp_path / "out", kind=file_type(kind))
    (file,) = (tmp_path / "out").glob("*.gguf")
    told = gguf(describe(str(real)), file_type(kind))
    check(told, real, context, measure(_LLAMA, file, context))


def test_onnxruntime_stays_in_the_range(real: Path, tmp_path: Path) -> None:
    scheme = QuantScheme(4, 32)
    made = quantize(real, tmp_path / "out", Recipe("rtn", scheme, formats=("onnx",)))
    told = onnx(describe(str(real)), MatrixSchemes(scheme), OnnxOptions())
    for context in (256, 768):
        check(told, real, context, measure(_ONNX, made.folders["onnx"], context))
