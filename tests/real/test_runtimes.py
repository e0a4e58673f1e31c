"""Other people's software reads the quantized folders and computes what phi3quant computes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from converters import open_model, open_weights, parts_of
from phi3quant.model.architecture import LINEARS
from phi3quant.model.decoder_block import embed, rms_norm
from phi3quant.model.predictor import final_states
from phi3quant.model.weights import ModelWeights
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import own_logits

# Level 1 keeps activations in FP32; embedding and head, which the builder would quantize, stay out.
BLOCKS_ONLY = ("accuracy_level=1", "exclude_embeds=true", "exclude_lm_head=true")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_transformers_loads_compressed_tensors_and_writes(
    awq: Mapping[str, Path], ids: torch.Tensor
) -> None:
    folder = awq["compressed-tensors"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        difference = own_logits(open_weights(folder), ids) - model(ids).logits
    assert float(difference.abs().max()) < 1e-3

    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])


@pytest.mark.parametrize("method", ["rtn", "awq"])
def test_onnxruntime_genai_reads_awq_gemm(
    method: str, ids: torch.Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(method)["awq-gemm"]
    build(folder, tmp_path / "onnx", *BLOCKS_ONLY)
    model = open_weights(folder)
    hidden = final_states(model, ids, lambda _steps: None)
    expected = rms_norm(hidden, model.final_norm(), model.config.rms_norm_eps)
    found = run_onnx(tmp_path / "onnx" / "model.onnx", ids, model)
    assert float((torch.from_numpy(found) - expected).abs().max()) < 1e-2 * float(expected.std())


def build(folder: Path, output: Path, *options: str) -> None:
    """Let onnxruntime-genai's builder turn an AWQ folder into an ONNX model."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    places = ["-i", str(folder), "-o", str(output), "-c", str(output.parent / "cache")]
    done = subprocess.run(
        [*command, *places, "--extra_options", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def run_onnx(file: Path, ids: torch.Tensor, model: ModelWeights) -> np.ndarray:
    """Final hidden states for token ids [batch, positions], with an empty cache."""
    session = onnxruntime.InferenceSession(file)
    config = model.config
    cache = np.zeros((len(ids), config.num_key_value_heads, 0, config.head_dim), np.float32)
    feeds = {given.name: cache for given in session.get_inputs()}
    feeds["inputs_embeds"] = embed(model.embedding(), ids).numpy()
    feeds["attention_mask"] = np.ones(ids.shape, np.int64)
    hidden: np.ndarray = session.run(None, feeds)[0]
    return hidden


def test_onnxruntime_genai_writes(awq: Mapping[str, Path], tmp_path: Path) -> None:
    import onnxruntime_genai as genai

    build(awq["awq-gemm"], tmp_path, "accuracy_level=4")
    assert_same_codes(awq["awq-gemm"], tmp_path)
    settings = json.loads((tmp_path / "genai_config.json").read_text())
    assert settings["model"]["type"] == "phi3"
    tokenizer = load_tokenizer(awq["awq-gemm"])
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.encode(tokenizer.render_chat(question, add_generation_prompt=True))
    model = genai.Model(str(tmp_path))
    options = genai.GeneratorParams(model)
    options.set_search_options(do_sample=False, max_length=len(prompt) + 24)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert "Paris" in tokenizer.decode(generator.get_sequence(0)[len(prompt) :].tolist())


def assert_same_codes(packed: Path, built: Path) -> None:
    """Compare the codes in a graph by the builder with those that it was made from."""
    shutil.copyfile(packed / "config.json", built / "config.json")
    (built / "model.onnx").rename(built / "phi3-int4.onnx")
    settings = json.loads((built / "genai_config.json").read_text())
    settings["model"]["decoder"]["filename"] = "phi3-int4.onnx"
    (built / "genai_config.json").write_text(json.dumps(settings))
    there, here = parts_of(open_model(built)), parts_of(open_model(packed))
    assert there.schemes == here.schemes
    for key in LINEARS:
        one, other = there.block(1)[key], here.block(1)[key]
        assert isinstance(one, QuantizedTensor)
        assert isinstance(other, QuantizedTensor)
        for name in ("codes", "scales", "zero_points"):
            assert torch.equal(getattr(one, name), getattr(other, name))
