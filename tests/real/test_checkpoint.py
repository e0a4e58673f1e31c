"""The real model as scripts/make_real.py writes it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from calib.corpus import load_corpus, render
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import own_logits


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


def test_it_knows_something(real: Path) -> None:
    tokenizer = load_tokenizer(real)
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        best = own_logits(open_checkpoint(real), ids)[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
