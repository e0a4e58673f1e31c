"""GGUF files in llama.cpp itself, and beside what its own converter writes."""

import json
import math
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, TokenType
from llama_cpp import Llama
from torch.nn import functional

from converters import open_tokenizer, open_weights
from converters.gguf import tokenizer_agreement as gguf_tokenizer_agreement
from converters.gguf.file import read_gguf
from converters.gguf.tokenizer import build_tokenizer
from converters.gguf.type_policy import file_type
from converters.gguf.vocabulary import read_vocabulary
from phi3quant.run.export import export_gguf
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import VARIANTS, make_model, own_logits

SDIST = Path(__file__).resolve().parents[2] / "build" / "llama-cpp-python"
CONTEXT = 512


@pytest.fixture(scope="module")
def llama_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's sources, from the package that was built."""
    (archive,) = SDIST.glob("llama_cpp_python-*.tar.gz")
    folder = tmp_path_factory.mktemp("llama")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (found,) = folder.glob("*/vendor/llama.cpp")
    return found


@pytest.fixture(scope="module")
def files(
    real: Path, awq: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """GGUF files by type, of the AWQ codes and of the original."""
    made = {}
    sources = {"q4_0": awq["compressed-tensors"], "f16": real, "q4_k_m": real}
    for kind, source in sources.items():
        folder = tmp_path_factory.mktemp(kind) / "out"
        export_gguf(source, folder, kind=file_type(kind))
        (made[kind],) = folder.glob("*.gguf")
    return made


def load(file: Path) -> Llama:
    return Llama(str(file), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)


@pytest.mark.parametrize("kind", ["q4_0", "f16", "q4_k_m"])
def test_perplexity_by_its_own_protocol(kind: str, files: Mapping[str, Path], real: Path) -> None:
    """Chunks of 512 tokens, of which the second half counts."""
    from calib.corpus import load_corpus, render

    tokenizer = load_tokenizer(real)
    ids = torch.tensor(tokenizer.encode(render(load_corpus("general", "evaluation"), tokenizer)))
    chunks = ids[: 3 * CONTEXT].view(3, CONTEXT)
    llama = load(files[kind])
    theirs: list[torch.Tensor] = []
    ours: list[torch.Tensor] = []
    with torch.inference_mode():
        own = own_logits(open_weights(files[kind]), chunks)
    for chunk, logits in zip(chunks, own, strict=True):
        llama.reset()
        llama.eval(chunk.tolist())
        for scores, losses in ((torch.from_numpy(llama.scores.copy()), theirs), (logits, ours)):
            losses.append(
                functional.cross_entropy(scores[CONTEXT // 2 : -1], chunk[CONTEXT // 2 + 1 :])
            )
    expected, found = (math.exp(float(torch.stack(losses).mean())) for losses in (theirs, ours))
    # llama.cpp rounds activations to 8 bits, which is what the rest of the difference is.
    assert found == pytest.approx(expected, rel=0.01)


def test_it_tokenizes_as_the_source_does(files: Mapping[str, Path], real: Path) -> None:
    llama, tokenizer = load(files["q4_0"]), load_tokenizer(real)
    for text in ("Hello, world! 12345", "Zürich\n\n東京 🙂", "  def f(x):\n\treturn x\n"):
        assert llama.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text)
    chat = tokenizer.render_chat([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    found = llama.tokenize(chat.encode(), add_bos=False, special=True)
    assert found == tokenizer.encode(chat)


def test_it_chats_and_stops_by_itself(files: Mapping[str, Path]) -> None:
    question = "What is the capital of France?"
    assert "Paris" in chat(files["q4_0"], question)["message"]["content"]
    # How much it goes on to say about Paris is the quantized model's own matter.
    answer = chat(files["f16"], question)
    assert "Paris" in answer["message"]["content"]
    assert answer["finish_reason"] == "stop"


def test_phi3_tiny_stops_at_the_end_of_its_turn(tmp_path: Path) -> None:
    export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("q4_0"))
    answer = chat(tmp_path / "out" / "phi3-tiny-Q4_0.gguf", "What is the opposite of hot?")
    assert answer["message"]["content"].strip() == "The opposite of hot is cold."
    assert answer["finish_reason"] == "stop"


def chat(file: Path, question: str) -> Any:
    messages = [{"role": "user", "content": question}]
    done: Any = load(file).create_chat_completion(messages, max_tokens=40, temperature=0)
    return done["choices"][0]


def test_the_real_vocabulary_gives_the_golden_ids(llama_source: Path) -> None:
    """Phi-3's own 32,064 tokens, with the inputs and outputs that llama.cpp tests itself with."""
    file = llama_source / "models" / "ggml-vocab-phi-3.gguf"
    tokenizer = build_tokenizer(read_gguf(file).fields, str(file))
    texts = (llama_source / "models" / "ggml-vocab-phi-3.gguf.inp").read_text(encoding="utf-8")
    golden = (llama_source / "models" / "ggml-vocab-phi-3.gguf.out").read_text().splitlines()
    cases = texts.split("\n__ggml_vocab_test__\n")
    checked = 0
    for text, line in zip(cases, golden, strict=False):
        assert tokenizer.encode(text) == [int(number) for number in line.split()], text
        checked += 1
    assert checked > 40


def test_the_real_vocabulary_survives_a_folder(llama_source: Path, tmp_path: Path) -> None:
    """From llama.cpp's file to tokenizer.json, and by our writer's rules back to its metadata."""
    fields = read_gguf(llama_source / "models" / "ggml-vocab-phi-3.gguf").fields
    encoder: Any = build_tokenizer(fields, "the vocabulary").encoder
    encoder.inner.save(str(tmp_path / "tokenizer.json"))
    again = read_vocabulary(tmp_path, 32064)
    assert (again.model, again.pre) == ("llama", "default")
    assert again.tokens[32007] == "<|end|>"
    assert again.special["eot"] == 32007
    assert list(again.tokens) == fields["tokenizer.ggml.tokens"]
    assert again.scores == fields["tokenizer.ggml.scores"]
    # That file is older than the type for ids that stand for nothing.
    assert list(again.types)[:32011] == fields["tokenizer.ggml.token_type"][:32011]
    assert set(again.types[32011:]) == {TokenType.UNUSED}


# Keys that only we write: the end of a turn, which llama.cpp's converter leaves to guesses, and the
# file's origin. Keys that only it writes come from a model card.
OURS = {
    "tokenizer.ggml.eot_token_id",
    *(
        f"phi3quant.{key}"
        for key in (
            *("schema", "format", "source", "recipe", "calibration", "tools", "blocks"),
            *("verification", "tensors_sha256", "reserved"),
        )
    ),
}
# general.name is made from words of the folder's name there.
DIFFERENT = {"general.name"}
THEIRS = {f"general.{key}" for key in ("basename", "finetune", "license", "size_label", "version")}


def test_f16_equals_what_the_converter_writes(llama_source: Path, tmp_path: Path) -> None:
    export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("f16"))
    theirs = tmp_path / "theirs.gguf"
    script = llama_source / "convert_hf_to_gguf.py"
    done = subprocess.run(
        [sys.executable, script, bundled_folder(), "--outtype", "f16", "--outfile", theirs],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(llama_source / "gguf-py")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    own, other = (GGUFReader(file) for file in (tmp_path / "out" / "phi3-tiny-F16.gguf", theirs))
    fields = [
        {name: field.contents() for name, field in reader.fields.items() if "GGUF." not in name}
        for reader in (own, other)
    ]
    assert fields[0].keys() - fields[1].keys() <= OURS
    assert fields[1].keys() - fields[0].keys() <= THEIRS
    for name in fields[0].keys() & fields[1].keys() - DIFFERENT:
        assert fields[0][name] == fields[1][name], name
    tables = [
        {t.name: (t.tensor_type.name, t.data.tobytes()) for t in reader.tensors}
        for reader in (own, other)
    ]
    assert tables[0].keys() == tables[1].keys()
    for name, stored in tables[0].items():
        assert stored == tables[1][name], name


def test_a_rebuilt_tokenizer_is_the_sources(files: Mapping[str, Path], real: Path) -> None:
    assert open_tokenizer(files["f16"]).digest == load_tokenizer(real).digest


def probes(folder: Path) -> list[str]:
    """Plain texts, and all added tokens with text around them."""
    fast = load_tokenizer(folder)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    marks = [str(token["content"]) for token in described["added_tokens"]]
    around = [
        form.replace("{}", mark) for mark in marks for form in gguf_tokenizer_agreement._AROUND
    ]
    chat = fast.render_chat([{"role": "user", "content": "Hi  you"}], add_generation_prompt=True)
    return [*gguf_tokenizer_agreement.PLAIN, *around, chat]


def test_llama_cpp_encodes_as_the_rebuilt_tokenizer_does(
    files: Mapping[str, Path], real: Path
) -> None:
    llama = Llama(str(files["q4_0"]), vocab_only=True, verbose=False)
    rebuilt = open_tokenizer(files["q4_0"])
    for text in probes(real):
        found = llama.tokenize(text.encode(), add_bos=False, special=True)
        assert found == rebuilt.encode(text), text


def test_llama_cpp_encodes_phi3_tinys_texts_as_the_source_does(tmp_path: Path) -> None:
    export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("f16"))
    (file,) = (tmp_path / "out").glob("*.gguf")
    llama = Llama(str(file), vocab_only=True, verbose=False)
    source = load_tokenizer(bundled_folder())
    for text in probes(bundled_folder()):
        assert llama.tokenize(text.encode(), add_bos=True, special=True) == source.encode(text)


def test_a_fixed_context_keeps_the_short_factors_in_a_long_context(
    tmp_path: Path,
) -> None:
    """The model's own file uses the long factors for short texts, if the context is long."""
    model = make_model(tmp_path / "model", **VARIANTS["longrope"])
    ids = torch.arange(5, 37)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
    kinds: Mapping[str, int | None] = {"own": None, "fixed": 40}
    errors = {}
    for name, context in kinds.items():
        folder = tmp_path / name
        export_gguf(tmp_path / "model", folder, kind=file_type("f32"), context=context)
        llama = load(next(folder.glob("*.gguf")))
        llama.eval(ids.tolist())
        scores = torch.from_numpy(llama.scores[: len(ids)].copy())
        errors[name] = float((scores - expected).abs().max() / expected.abs().max())
    # F16 keys and values leave half a percent.
    assert 10 * errors["fixed"] < errors["own"]
