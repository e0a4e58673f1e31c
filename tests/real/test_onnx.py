"""ONNX folders in onnxruntime and onnxruntime-genai, beside transformers and our other formats."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai as genai
import pytest
import torch
from transformers import AutoModelForCausalLM

from converters.gguf.type_policy import file_type
from converters.onnx.options import OnnxOptions
from phi3quant.evaluation.evaluate import EvaluationText, evaluate
from phi3quant.run.export import export_gguf, export_onnx
from phi3quant.source.tokenizer import load_tokenizer

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
QUESTIONS = ("What is the capital of France?", "Write one sentence about rivers.")


@pytest.fixture(scope="module")
def exact(awq: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The AWQ codes with nothing else rounded: activations left alone, embedding in 16 bits."""
    folder = tmp_path_factory.mktemp("exact") / "out"
    options = OnnxOptions(accuracy_level=0, embedding="fp16", head="fp16")
    export_onnx(awq["compressed-tensors"], folder, options=options)
    return folder


@pytest.fixture(scope="module")
def shipped(awq: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The AWQ codes with all defaults."""
    folder = tmp_path_factory.mktemp("shipped") / "out"
    export_onnx(awq["compressed-tensors"], folder)
    return folder


def test_logits_equal_transformers(real: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    export_onnx(real, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones(ids.shape, np.int64)}
    for given in session.get_inputs()[2:]:
        _, heads, _, width = given.shape
        feeds[given.name] = np.zeros((len(ids), heads, 0, width), np.float32)
    (found,) = session.run(["logits"], feeds)
    model = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    with torch.inference_mode():
        difference = torch.from_numpy(found) - model(ids).logits
    assert float(difference.abs().max()) < 1e-3


def write(folder: Path, prompt: list[int], count: int) -> list[int]:
    """Greedy answer of onnxruntime-genai to a prompt."""
    model = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    options.set_search_options(do_sample=False, max_length=len(prompt) + count)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(number) for number in generator.get_sequence(0)[len(prompt) :]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_greedy_generation_equals_transformers(exact: Path, awq: Mapping[str, Path]) -> None:
    tokenizer = load_tokenizer(exact)
    model = AutoModelForCausalLM.from_pretrained(awq["compressed-tensors"], dtype=torch.float32)
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.encode(tokenizer.render_chat(turns, add_generation_prompt=True))
        batch = torch.tensor([prompt])
        expected = model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=32, do_sample=False
        )
        theirs = expected[0, len(prompt) :].tolist()
        ours = write(exact, prompt, 32)
        # One of the two leaves the token out that ended the text; a good answer may be short.
        shared = min(len(ours), len(theirs))
        assert shared >= 4
        assert abs(len(ours) - len(theirs)) <= 1
        assert ours[:shared] == theirs[:shared]


def test_its_tokenizer_and_chats_are_ours(shipped: Path) -> None:
    model = genai.Model(str(shipped))
    theirs, ours = genai.Tokenizer(model), load_tokenizer(shipped)
    for text in ("Hello, world! 12345", "Zürich\n\n東京 🙂", "  def f(x):\n\treturn x\n"):
        assert theirs.encode(text).tolist() == ours.encode(text)
    turns = [{"role": "user", "content": "Hi"}]
    expected = ours.render_chat(turns, add_generation_prompt=True)
    found = theirs.apply_chat_template(
        '[{"role": "user", "content": "Hi"}]', add_generation_prompt=True
    )
    assert found == expected


def test_texts_that_are_written_together_equal_those_alone(exact: Path) -> None:
    # Not the shipped folder: onnxruntime rounds its activations otherwise for one row than for
    # two, which moves logits by 0.1 and decides between tokens that are nearly equally likely.
    tokenizer = load_tokenizer(exact)
    prompts = [
        tokenizer.encode(
            tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)
        )
        for text in QUESTIONS
    ]
    model = genai.Model(str(exact))
    options = genai.GeneratorParams(model)
    longest = max(map(len, prompts))
    options.set_search_options(do_sample=False, max_length=longest + 8, batch_size=2)
    generator = genai.Generator(model, options)
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    generator.append_tokens(genai.Tokenizer(model).encode_batch(texts))
    while not generator.is_done():
        generator.generate_next_token()
    for number, prompt in enumerate(prompts):
        alone = write(exact, prompt, 8)
        sequence = [int(token) for token in generator.get_sequence(number)]
        assert str(alone[:8])[1:-1] in str(sequence)


def test_one_checkpoint_scores_the_same_in_every_format(
    exact: Path, awq: Mapping[str, Path], tmp_path: Path
) -> None:
    packed = awq["compressed-tensors"]
    kind = file_type("q4_0", ["token_embd=f16"])
    gguf = export_gguf(packed, tmp_path / "gguf", kind=kind).folders["gguf"]
    scored = evaluate([packed, gguf, exact], EvaluationText(max_tokens=1024))
    _, as_gguf, as_onnx = scored.comparisons
    assert as_gguf.ratio == pytest.approx(1, abs=1e-3)
    assert as_onnx.ratio == pytest.approx(1, abs=1e-3)


def test_rounded_activations_cost_little(shipped: Path, awq: Mapping[str, Path]) -> None:
    scored = evaluate([awq["compressed-tensors"], shipped], EvaluationText(max_tokens=1024))
    _, rounded, exact = scored.comparisons
    assert exact.ratio == pytest.approx(1, abs=0.01)
    assert rounded.ratio == pytest.approx(1, abs=0.03)


def test_the_example_in_the_documentation_writes(shipped: Path, tmp_path: Path) -> None:
    (code,) = re.findall(
        r"```python\n((?:(?!```).)*onnxruntime_genai.*?)```",
        EXAMPLE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "onnx").symlink_to(shipped)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
