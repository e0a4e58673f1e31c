"""Output matrices of 4 bits, whose codes are chosen by their inputs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calib.activations import Shelf, parts
from converters import open_weights
from phi3quant.errors import CheckpointError
from phi3quant.model.decoder_block import rms_norm
from phi3quant.model.predictor import final_states
from phi3quant.progress import silent
from phi3quant.quant.codecs import affine
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.gram import Gram
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run import coarse_head
from phi3quant.run.calibration import Calibration
from phi3quant.run.coarse_head import head_codes, head_inputs
from phi3quant.run.one_block import start
from phi3quant.run.pipeline import quantize
from phi3quant.run.presets import profiled
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import Checkpoint, open_checkpoint
from tests.models import VARIANTS, VOCABULARY, make_model

CODEC = AffineCodec(QuantScheme(4, 32))
IDS = torch.randint(0, VOCABULARY, (12, 32), generator=torch.Generator().manual_seed(1))
SHORT = Calibration("general", samples=6, length=64)


@pytest.fixture(params=["gqa", "tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    make_model(tmp_path / "model", **VARIANTS[request.param])
    return open_checkpoint(tmp_path / "model")


def inputs(checkpoint: Checkpoint) -> Gram:
    return head_inputs(checkpoint, IDS, Shelf(), silent)


def output_loss(codes: QuantizedTensor, checkpoint: Checkpoint, gram: Gram) -> float:
    error = codes.dequantize() - checkpoint.head()
    return float(gram.output_error(error).sum())


def test_inputs_are_the_normed_states_after_the_last_block(checkpoint: Checkpoint) -> None:
    states = final_states(checkpoint, IDS, lambda _steps: None)
    x = rms_norm(states, checkpoint.final_norm(), checkpoint.config.rms_norm_eps).flatten(0, 1)
    expected = Gram.of(x)
    gram = inputs(checkpoint)
    assert gram.tokens == IDS.numel()
    # Blocks are computed in the dtype that the machine multiplies fastest.
    close = torch.linalg.norm(gram.captured - expected.captured)
    assert close < 0.05 * torch.linalg.norm(expected.captured)


def test_inputs_on_disk_are_those_in_memory(checkpoint: Checkpoint, tmp_path: Path) -> None:
    stored = head_inputs(checkpoint, IDS, Shelf(tmp_path), silent)
    assert torch.equal(stored.captured, inputs(checkpoint).captured)


def test_codes_lose_less_output_than_rounding(checkpoint: Checkpoint) -> None:
    gram = inputs(checkpoint)
    chosen = head_codes(checkpoint, gram, CODEC)
    rounded = affine.quantize(checkpoint.head(), CODEC.scheme)
    assert output_loss(chosen, checkpoint, gram) < 0.6 * output_loss(rounded, checkpoint, gram)


def test_rows_can_be_chosen_in_parts(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    gram = inputs(checkpoint)
    whole = head_codes(checkpoint, gram, CODEC)
    monkeypatch.setattr(coarse_head, "_ROWS", 96)
    parts = head_codes(checkpoint, gram, CODEC)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.scales, whole.scales)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    gram = inputs(open_checkpoint(tmp_path / "model"))
    model.lm_head.weight.data[5, 7] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="lm_head"):
        head_codes(open_checkpoint(tmp_path / "model"), gram, CODEC)


def test_the_quantized_models_states_start_from_the_codes(tmp_path: Path) -> None:
    make_model(tmp_path / "model", **VARIANTS["tied"])
    checkpoint = open_checkpoint(tmp_path / "model")
    coded, embedding = affine.quantize(checkpoint.head(), CODEC.scheme), checkpoint.embedding()
    states = start(checkpoint.config, embedding, IDS, Shelf(), compensate=True, coded=coded)
    stored = coded.dequantize()
    for streams, ids in ((states.held_back, IDS[:1]), (states.seen, IDS[1:])):
        assert torch.equal(torch.cat(list(parts(streams.clean, 99))), embedding[ids])
        assert torch.equal(torch.cat(list(parts(streams.actual, 99))), stored[ids])


@pytest.mark.parametrize("variant", ["gqa", "tied"])
def test_a_file_holds_the_codes(variant: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model", **VARIANTS[variant])
    recipe = replace(profiled("adreno"), calibration=SHORT)
    folders = quantize(tmp_path / "model", tmp_path / "out", recipe).folders
    written, source = open_weights(folders["gguf"]), open_checkpoint(tmp_path / "model")
    rounded = CODEC.round_trip(source.head())
    assert not torch.equal(written.head(), rounded)
    if variant == "gqa":
        # An embedding of its own is only looked up, so that its codes are the nearest ones.
        plain = BlockCodec(TYPES["Q4_0"]).round_trip(source.embedding())
        assert torch.equal(written.embedding(), plain)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(formats=("gguf",), gguf_type="q4_0"),
        Recipe("rtn", formats=("gguf",), gguf_type="q4_0", tensor_types=("output=q4_0",)),
        Recipe(
            formats=("gguf",), gguf_type="q4_0", tensor_types=("output=q4_0",), compensate=False
        ),
        Recipe(formats=("gguf",), gguf_type="q4_0", tensor_types=("output=q8_0",)),
    ],
)
def test_other_output_matrices_are_left_to_the_writer(recipe: Recipe, tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=256)
    assert recipe.head_codec(open_checkpoint(tmp_path / "model").config) is None
