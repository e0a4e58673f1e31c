from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Phi3ForCausalLM

from phi3quant.model.decoder_block import sliding_mask
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY, long_rope, make_model, own_logits


# LongRoPE switches to its long factors above 40 tokens; the window variant has a window of 13.
@pytest.mark.parametrize("length", [12, 40, 41, 70])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(
    variant: str, length: int, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder(variant)
    model = Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    ids = torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        difference = (own_logits(open_checkpoint(folder), ids) - model(ids).logits).abs().max()
    assert float(difference) < 1e-4


def test_window_gqa_partial_rotation_and_longrope_work_together(tmp_path: Path) -> None:
    together = {**VARIANTS["longrope"], **VARIANTS["window"]}
    together["rope_scaling"] = {**long_rope(4), "partial_rotary_factor": 0.5}
    model = make_model(tmp_path, **together)
    ids = torch.arange(50)[None] % VOCABULARY
    with torch.inference_mode():
        assert (
            float((own_logits(open_checkpoint(tmp_path), ids) - model(ids).logits).abs().max())
            < 1e-4
        )


def test_a_window_that_covers_the_text_needs_no_mask() -> None:
    assert sliding_mask(None, 10) is None
    assert sliding_mask(10, 10) is None
    mask = sliding_mask(3, 5)
    assert mask is not None
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
