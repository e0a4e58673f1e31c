"""A model of Phi-4-mini's kind: 200,064 tokens, one matrix for embedding and head, LongRoPE.

The embedding makes the model answer with ANSWER: each token's row has a part of the row before it,
and is longer.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import pytest
import torch
from llama_cpp import Llama
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM

from converters.gguf.tokenizer_agreement import PLAIN
from phi3quant.disk.output import write_json
from phi3quant.generation.generate import generate
from phi3quant.source.tokenizer import load_tokenizer

ANSWER = "Past two harbours"
ROWS, HIDDEN, END_OF_TEXT, ASSISTANT, END = 200064, 384, 199999, 200019, 200020
LIMIT = 12


@pytest.fixture(scope="module")
def source(phi_4_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "phi-4-mini"
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=ROWS,
        hidden_size=HIDDEN,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        partial_rotary_factor=0.75,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_scaling={
            "rope_type": "longrope",
            "short_factor": [1.0] * 24,
            "long_factor": [1.0 + 0.5 * pair for pair in range(24)],
        },
        sliding_window=262144,
        tie_word_embeddings=True,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
    )
    model = Phi3ForCausalLM(config)
    chain = [ASSISTANT, *load_tokenizer(phi_4_mini).encode(ANSWER), END]
    assert len(set(chain)) == len(chain)
    table = model.model.embed_tokens.weight.data.normal_(std=0.3)
    directions, _ = torch.linalg.qr(torch.randn(HIDDEN, len(chain) + 1))
    for place, token in enumerate(chain):
        table[token] = 6 * 3**place * (directions[:, place] + directions[:, place + 1])
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((phi_4_mini / name).read_bytes())
    stops = {"bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT]}
    write_json(folder / "generation_config.json", stops)
    return folder


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset's artifacts, and a packed folder for transformers."""
    output = tmp_path_factory.mktemp("quantized") / source.name
    run = [sys.executable, "-m", "phi3quant", "awq", str(source), "--preset", "phone-fast"]
    options = ["--samples", "8", "--export", "compressed-tensors,gguf,onnx", "--no-verify"]
    subprocess.run([*run, *options, "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="module")
def llama(quantized: Path) -> Llama:
    (file,) = (quantized / "gguf").glob("*.gguf")
    return Llama(str(file), n_ctx=512, verbose=False)


def test_every_runtime_encodes_alike(source: Path, quantized: Path, llama: Llama) -> None:
    reference = AutoTokenizer.from_pretrained(source)
    from_onnx = genai.Tokenizer(genai.Model(str(quantized / "onnx")))
    for text in (*PLAIN, "<|user|>Where?<|end|><|assistant|>"):
        ids = reference(text).input_ids
        assert list(from_onnx.encode(text)) == ids
        assert load_tokenizer(source).encode(text) == ids
        # llama.cpp splits words at combining marks, which export notes.
        alike = llama.tokenize(text.encode(), add_bos=True, special=True) == ids
        assert alike == ("हिन्दी" not in text)


def test_every_runtime_writes_the_same_text_and_stops(quantized: Path, llama: Llama) -> None:
    (file,) = (quantized / "gguf").glob("*.gguf")
    for artifact in (quantized, file, quantized / "onnx"):
        answer = generate(artifact, "Where?", max_new_tokens=LIMIT)
        assert (answer.text, answer.stopped) == (ANSWER, True), answer.runtime
    done: Any = llama.create_chat_completion(
        [{"role": "user", "content": "Where?"}], max_tokens=LIMIT, temperature=0
    )
    assert done["choices"][0]["message"]["content"] == ANSWER
    assert done["choices"][0]["finish_reason"] == "stop"

    tokenizer = load_tokenizer(quantized)
    ids = tokenizer.encode("<|user|>Where?<|end|><|assistant|>")
    expected = [*tokenizer.encode(ANSWER), END]
    packed = AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32)
    written = packed.generate(torch.tensor([ids]), max_new_tokens=LIMIT, do_sample=False)
    assert written[0, len(ids) :].tolist() == expected

    model = genai.Model(str(quantized / "onnx"))
    options = genai.GeneratorParams(model)
    options.set_search_options(do_sample=False, max_length=len(ids) + LIMIT)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([ids], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert generator.get_sequence(0)[len(ids) :].tolist() == expected[:-1]


def test_onnx_has_one_matrix_for_embedding_and_head(quantized: Path) -> None:
    settings = json.loads((quantized / "onnx" / "genai_config.json").read_text())
    assert set(settings["model"]["eos_token_id"]) == {END, END_OF_TEXT}
    data = (quantized / "onnx" / "model.onnx.data").stat().st_size
    # Codes of 8 bits, and a scale of 4 bytes for each group of 32.
    matrix = ROWS * HIDDEN * (1 + 4 / 32)
    rotary = 2 * (131072 + 4096) * 24 * 4
    assert matrix < data - rotary < 1.1 * matrix
