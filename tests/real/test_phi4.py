"""A model of Phi-4's kind, quantized, in llama.cpp, onnxruntime-genai and transformers.

The weights are random, except for the head: it makes the model answer any question with ANSWER, so
that texts can be compared in spite of the rounding of each runtime.
"""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import pytest
import torch
from llama_cpp import Llama
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config

from converters import open_weights
from converters.gguf.tokenizer_agreement import PLAIN
from phi3quant.disk.output import write_json
from phi3quant.generation.decoder import BlockwiseDecoder
from phi3quant.generation.generate import generate
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer

ANSWER = "The miller's 12 lanterns lit Łódź — 東京, naïve code: x+=1."
# Without spaces at its ends, which Phi-4's special tokens absorb; llama.cpp can't do that.
QUESTION = "Where is\nthe harbour?"
ROWS, END_OF_TEXT, END, SEPARATOR = 100352, 100257, 100265, 100266
LIMIT = 40

REASONING = (
    "<|im_start|>system<|im_sep|>You reason before you answer. "
    + "Weigh every step, name what is uncertain, and check the result once more. " * 20
    + "Write the reasoning between <think> and </think>.<|im_end|>"
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "<|im_start|>{{ message['role'] }}<|im_sep|>{{ message['content'] }}<|im_end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
"""Template with a long fixed system prompt, as Phi-4-reasoning's."""

TEXTS = (
    *PLAIN,
    "I'LL we've DON'T 1234567.89",
    "<|im_start|>user<|im_sep|>Where?<|im_end|><|im_start|>assistant<|im_sep|>",
    "a<|endoftext|>b",
)


NARROW = {"hidden_size": 512, "intermediate_size": 1792, "num_attention_heads": 8}
FULL_WIDTH = {"hidden_size": 5120, "intermediate_size": 17920, "num_attention_heads": 40}


def make_source(folder: Path, phi_4: Path, sizes: Mapping[str, int]) -> Path:
    """Two blocks with Phi-4's proportions, all of its vocabulary, and a long system prompt."""
    torch.manual_seed(0)
    config = Phi3Config(
        **sizes,
        num_key_value_heads=sizes["num_attention_heads"] // 4,
        vocab_size=ROWS,
        num_hidden_layers=2,
        max_position_embeddings=16384,
        original_max_position_embeddings=16384,
        rope_theta=250000.0,
        sliding_window=None,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END,
        pad_token_id=END_OF_TEXT,
        # The same influence of the blocks at any width: the head must recognise the embedding.
        initializer_range=0.02 * math.sqrt(NARROW["hidden_size"] / sizes["hidden_size"]),
        dtype="bfloat16",
    )
    model = AutoModelForCausalLM.from_config(config)
    tokenizer = load_tokenizer(phi_4)
    chain = [SEPARATOR, *tokenizer.encode(ANSWER), END]
    assert len(set(chain)) == len(chain)
    table = torch.randn(ROWS, config.hidden_size, dtype=torch.bfloat16)
    model.model.embed_tokens.weight.data[:] = table
    model.lm_head.weight.data.normal_(std=0.05)
    for token, following in pairwise(chain):
        model.lm_head.weight.data[following] = table[token] * 0.1
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((phi_4 / name).read_bytes())
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": END_OF_TEXT, "eos_token_id": [END_OF_TEXT, END]},
    )
    (folder / "chat_template.jinja").write_text(REASONING, encoding="utf-8")
    return folder


def quantize_source(source: Path, output: Path) -> Path:
    """The preset's artifacts, and a packed folder for transformers."""
    run = [sys.executable, "-m", "phi3quant", "awq", str(source), "--preset", "phone-fast"]
    options = ["--samples", "8", "--export", "compressed-tensors,gguf,onnx", "--no-verify"]
    subprocess.run([*run, *options, "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="module")
def source(phi_4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "phi-4-reasoning", phi_4, NARROW)


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_source(source, tmp_path_factory.mktemp("quantized") / source.name)


@pytest.fixture(scope="module")
def llama(quantized: Path) -> Llama:
    return by_llama_cpp(quantized)


def by_llama_cpp(quantized: Path) -> Llama:
    (file,) = (quantized / "gguf").glob("*.gguf")
    return Llama(str(file), n_ctx=1024, verbose=False)


def prompt(tokenizer: Tokenizer) -> str:
    return tokenizer.render_chat(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True
    )


def test_every_runtime_encodes_alike(source: Path, quantized: Path, llama: Llama) -> None:
    assert_encodes_alike(source, quantized, llama)


def test_runtimes_agree_at_full_width(phi_4: Path, tmp_path: Path) -> None:
    """One test, since a second process with such a model wouldn't fit into memory."""
    source = make_source(tmp_path / "source" / "phi-4-reasoning", phi_4, FULL_WIDTH)
    quantized = quantize_source(source, tmp_path / "quantized")
    llama = by_llama_cpp(quantized)
    assert_encodes_alike(source, quantized, llama)
    assert_stops_alike(quantized, llama)
    assert_writes_alike(source, quantized, llama)


def assert_encodes_alike(source: Path, quantized: Path, llama: Llama) -> None:
    reference = AutoTokenizer.from_pretrained(source)
    packed = AutoTokenizer.from_pretrained(quantized)
    from_onnx = genai.Tokenizer(genai.Model(str(quantized / "onnx")))
    for text in (*TEXTS, prompt(load_tokenizer(source))):
        ids = reference(text).input_ids
        assert packed(text).input_ids == ids
        assert llama.tokenize(text.encode(), add_bos=True, special=True) == ids
        assert list(from_onnx.encode(text)) == ids
        assert load_tokenizer(source).encode(text) == ids


def test_every_runtime_stops_at_the_same_tokens(quantized: Path, llama: Llama) -> None:
    assert_stops_alike(quantized, llama)


def assert_stops_alike(quantized: Path, llama: Llama) -> None:
    settings = json.loads((quantized / "onnx" / "genai_config.json").read_text())
    assert set(settings["model"]["eos_token_id"]) == {END, END_OF_TEXT}
    assert llama.token_eos() == END
    assert llama.metadata["tokenizer.ggml.eot_token_id"] == str(END)
    assert llama.metadata["tokenizer.ggml.pre"] == "dbrx"
    assert llama.metadata["phi3.rope.freq_base"] == "250000.000000"
    assert llama.metadata["phi3.attention.sliding_window"] == "0"


def test_every_runtime_writes_the_same_text(source: Path, quantized: Path, llama: Llama) -> None:
    (file,) = (quantized / "gguf").glob("*.gguf")
    for artifact in (quantized, file, quantized / "onnx"):
        answer = generate(artifact, QUESTION, max_new_tokens=LIMIT)
        assert (answer.text, answer.stopped) == (ANSWER, True), answer.runtime

    ids = load_tokenizer(source).encode(prompt(load_tokenizer(source)))
    expected = [*load_tokenizer(source).encode(ANSWER), END]
    assert greedy(BlockwiseDecoder(open_weights(file)), ids) == expected
    assert_writes_alike(source, quantized, llama)


def assert_writes_alike(source: Path, quantized: Path, llama: Llama) -> None:
    ids = load_tokenizer(source).encode(prompt(load_tokenizer(source)))
    expected = [*load_tokenizer(source).encode(ANSWER), END]
    assert by_transformers(quantized, ids) == expected
    assert by_genai(quantized / "onnx", ids) == expected[:-1]

    done: Any = llama.create_chat_completion(
        [{"role": "user", "content": QUESTION}], max_tokens=LIMIT, temperature=0
    )
    assert done["choices"][0]["message"]["content"] == ANSWER
    assert done["choices"][0]["finish_reason"] == "stop"


def greedy(decoder: BlockwiseDecoder, ids: Sequence[int]) -> list[int]:
    """Greedy answer by phi3quant's reader, with its stop token."""
    answer: list[int] = []
    with torch.inference_mode():
        scores = decoder.feed(ids)
        while len(answer) < LIMIT and END not in answer:
            answer.append(int(scores.argmax()))
            scores = decoder.feed(answer[-1:])
    return answer


def by_transformers(folder: Path, ids: Sequence[int]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written = model.generate(torch.tensor([ids]), max_new_tokens=LIMIT, do_sample=False)
    return list(map(int, written[0, len(ids) :]))


def by_genai(folder: Path, ids: Sequence[int]) -> list[int]:
    """Greedy answer by onnxruntime-genai, which leaves out the stop token."""
    model = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    options.set_search_options(do_sample=False, max_length=len(ids) + LIMIT)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([ids], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return list(map(int, generator.get_sequence(0)[len(ids) :]))
