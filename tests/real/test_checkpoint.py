"""The real model as scripts/make_real.py writes it."""

import hashlib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from calib.corpus import load_corpus, render
from converters.gguf.embedded_manifest import tensors_sha256
from converters.gguf.reader import open_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import own_logits, split_copy


def test_logits_equal_transformers(real: Path, ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    with torch.inference_mode():
        difference = own_logits(open_checkpoint(real), ids) - model(ids).logits
    assert float(difference.abs().max()) < 1e-3


def test_tokens_equal_transformers(real: Path) -> None:
    own, other = load_tokenizer(real), AutoTokenizer.from_pretrained(real)
    text = render(load_corpus("general", "evaluation"), own)
    assert own.encode(text) == other.encode(text, add_special_tokens=False)
    assert own.decode(own.encode(text)) == text


def test_a_split_llama_model_gives_the_same_bytes(real: Path, tmp_path: Path) -> None:
    """Re-saved as fine-tuning tools do, the model quantizes to the same weights."""
    formats = ("compressed-tensors", "onnx", "gguf")
    digests = []
    for source in (real, split_copy(real, tmp_path / "split")):
        out = quantize(source, tmp_path / f"{source.name}-out", Recipe("rtn", formats=formats))
        data = (out.folders["compressed-tensors"] / "model.safetensors").read_bytes()
        (gguf,) = out.folders["gguf"].glob("*.gguf")
        onnx = (out.folders["onnx"] / "model.onnx.data").read_bytes()
        digests.append(
            [
                hashlib.sha256(data).hexdigest(),
                hashlib.sha256(onnx).hexdigest(),
                tensors_sha256(open_gguf(gguf).model),
            ]
        )
    assert digests[0] == digests[1]


def test_it_knows_something(real: Path) -> None:
    tokenizer = load_tokenizer(real)
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        best = own_logits(open_checkpoint(real), ids)[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
