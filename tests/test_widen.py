"""The real model with rows of whole superblocks, for the quality benchmark."""

from pathlib import Path

import torch

from benchmarks.widen import write_widened
from converters import open_weights
from tests.models import VARIANTS, VOCABULARY, make_model, own_logits


def test_a_widened_model_computes_the_same(tmp_path: Path) -> None:
    make_model(tmp_path / "model", **VARIANTS["tied"])
    write_widened(tmp_path / "model", tmp_path / "wide")
    ids = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))
    narrow, wide = (open_weights(tmp_path / name) for name in ("model", "wide"))
    assert wide.config.hidden_size == 256
    # Not exactly: the source is FP32, and the wide model FP16.
    error = own_logits(wide, ids) - own_logits(narrow, ids)
    assert error.square().mean().sqrt() < 0.02
