"""A phone's arithmetic: llama.cpp built for ARM, emulated by qemu, on the bundled model.

``make test-arm`` builds it. ``-cpu max`` has dot products (dotprod) and int8 matrix products
(i8mm), for which llama.cpp rearranges weights when it loads a file.
"""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llama_cpp import Llama
from torch.nn import functional

from calib.corpus import load_corpus
from converters import open_weights
from converters.gguf.type_policy import FILE_TYPES, file_type
from phi3quant.run.export import export_gguf
from tests.models import own_logits

BINARY = Path(__file__).resolve().parents[2] / "build" / "arm" / "bin" / "llama-perplexity"
CONTEXT, CHUNKS = 256, 4
TYPES = [name for name in ("Q4_0", "IQ4_NL", "Q4_K_M", "Q8_0") if name in FILE_TYPES]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    documents = map(str, load_corpus("tiny", "evaluation").documents)
    file.write_text("\n\n".join(documents)[:16000], encoding="utf-8")
    return file


def on_arm(file: Path, text: Path, *options: str) -> tuple[float, str]:
    """Perplexity that llama-perplexity prints under qemu, and its log."""
    if not BINARY.is_file():
        pytest.fail(f"{BINARY} is missing; `make test-arm` builds it")
    words = ["-m", file, "-f", text, "-c", CONTEXT, "-b", CONTEXT, "--chunks", CHUNKS]
    words += ["-t", 2, "--verbosity", 4, *options]
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "max", BINARY, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    estimate = re.search(r"Final estimate: PPL = ([0-9.]+)", log)
    assert estimate is not None, log[-2000:]
    return float(estimate[1]), log


def here(file: Path, text: Path) -> tuple[float, float]:
    """Perplexity in llama-cpp-python and in phi3quant, by llama-perplexity's protocol.

    The second half of each chunk counts.
    """
    llama = Llama(str(file), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)
    ids = torch.tensor(llama.tokenize(text.read_bytes(), add_bos=True, special=False))
    chunks = ids[: CHUNKS * CONTEXT].view(CHUNKS, CONTEXT)
    with torch.inference_mode():
        own = own_logits(open_weights(file), chunks)
    losses = torch.zeros(2)
    for chunk, logits in zip(chunks, own, strict=True):
        llama.reset()
        llama.eval(chunk.tolist())
        scored = (torch.from_numpy(llama.scores.copy()), logits)
        targets = chunk[CONTEXT // 2 + 1 :]
        losses += torch.stack(
            [functional.cross_entropy(scores[CONTEXT // 2 : -1], targets) for scores in scored]
        )
    runtime, reader = (losses / CHUNKS).tolist()
    return math.exp(runtime), math.exp(reader)


@pytest.mark.parametrize("kind", TYPES)
def test_a_phone_computes_the_perplexity_that_is_measured_here(
    kind: str, text: Path, tmp_path: Path
) -> None:
    export_gguf("phi3-tiny", tmp_path / "out", kind=file_type(kind))
    (file,) = (tmp_path / "out").glob("*.gguf")
    arm, log = on_arm(file, text)
    assert "DOTPROD = 1" in log
    assert "MATMUL_INT8 = 1" in log
    assert "CPU_REPACK model buffer size" in log
    plain, unpacked_log = on_arm(file, text, "--no-repack")
    assert "CPU_REPACK model buffer size" not in unpacked_log
    runtime, reader = here(file, text)
    figures = {"arm, repacked": arm, "arm": plain, "x86": runtime, "phi3quant": reader}
    columns = "".join(f", {name} {value:.4f}" for name, value in figures.items())
    sys.stdout.write(f"\nperplexity of {kind}{columns}\n")
    # llama.cpp rounds activations to 8 bits, differently for each kernel.
    for value in (plain, runtime, reader):
        assert arm == pytest.approx(value, rel=0.01)
