from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Phi3ForCausalLM

from converters import open_model
from converters.onnx.decoder import OnnxDecoder
from converters.onnx.options import OnnxOptions
from converters.onnx.reader import OnnxModel
from phi3quant.generation import decoder as decoders
from phi3quant.generation.decoder import BlockwiseDecoder, Decoder
from phi3quant.model.kept_weights import KEPT_BYTES
from phi3quant.run.export import export_onnx
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY, own_logits

# LongRoPE's variant takes other factors past 40 tokens, and the window of its variant is 13: both
# are crossed while writing.
PROMPT = torch.randint(3, VOCABULARY, (34,), generator=torch.Generator().manual_seed(5)).tolist()
NEW = 12
# Scores reach 5, and attention here is so steep that another order of sums shows in the 4th place.
ROUNDING = 1e-3


def greedy(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    written: list[int] = []
    feed = prompt
    for _ in range(count):
        written.append(int(decoder.feed(feed).argmax()))
        feed = written[-1:]
    return written


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_text_equals_transformers(
    variant: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder(variant)
    model = Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    batch = torch.tensor([PROMPT])
    with torch.inference_mode():
        expected = model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found = greedy(BlockwiseDecoder(open_checkpoint(folder)), PROMPT, NEW)
    assert found == expected[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kept", [0, KEPT_BYTES])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_says_what_the_whole_text_says(
    variant: str, kept: int, checkpoint_folder: Callable[[str], Path]
) -> None:
    model = open_checkpoint(checkpoint_folder(variant))
    decoder = BlockwiseDecoder(model, kept)
    assert ("in memory" in decoder.runtime) == bool(kept)
    ids = PROMPT + PROMPT[:NEW]
    for end in range(len(PROMPT), len(ids)):
        found = decoder.feed(ids[:end] if end == len(PROMPT) else ids[end - 1 : end])
        expected = own_logits(model, torch.tensor([ids[:end]]))[0, -1]
        assert torch.allclose(found, expected, atol=ROUNDING)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variant=st.sampled_from(["gqa", "window", "longrope"]),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    piece=st.integers(1, 30),
)
def test_any_way_of_feeding_gives_the_same(
    checkpoint_folder: Callable[[str], Path], variant: str, cuts: list[int], piece: int
) -> None:
    model = open_checkpoint(checkpoint_folder(variant))
    ids = [3 + (7 * number) % (VOCABULARY - 3) for number in range(sum(cuts))]
    decoder = BlockwiseDecoder(model)
    scores = torch.empty(0)
    start = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "_PIECE", piece)
        for cut in cuts:
            scores = decoder.feed(ids[start : start + cut])
            start += cut
    assert torch.allclose(scores, own_logits(model, torch.tensor([ids]))[0, -1], atol=ROUNDING)


@pytest.mark.parametrize("variant", ["gqa", "tied", "window", "longrope"])
def test_an_onnx_folder_writes_what_its_source_writes(
    variant: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint_folder(variant)
    export_onnx(folder, tmp_path / "out", options=OnnxOptions(accuracy_level=0))
    opened = open_model(tmp_path / "out")
    assert isinstance(opened, OnnxModel)
    expected = greedy(BlockwiseDecoder(open_checkpoint(folder)), PROMPT, NEW)
    assert greedy(OnnxDecoder(opened), PROMPT, NEW) == expected
