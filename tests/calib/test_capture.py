import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Phi3ForCausalLM

import phi3quant.quant.gram
from calib import capture
from phi3quant.model.architecture import LINEARS
from phi3quant.model.decoder_block import embed, sequence_context
from phi3quant.quant.gram import (
    Damped,
    Gram,
    diagonal_blocks,
    output_error,
    remaining_metrics,
)
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY
from tests.quant.group_errors import grouped_output_error

IDS = torch.randint(0, VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(5))
MODULES = {
    "qkv_proj": "self_attn.qkv_proj",
    "o_proj": "self_attn.o_proj",
    "gate_up_proj": "mlp.gate_up_proj",
    "down_proj": "mlp.down_proj",
}


def captured(folder: Path) -> tuple[dict[str, Gram], torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    hidden = embed(checkpoint.embedding(), IDS)
    context = sequence_context(checkpoint.config, IDS.shape[1])
    grams = capture.collect(checkpoint.block(0), context, hidden)
    capture.advance(checkpoint.block(0), context, hidden)
    return grams, hidden


@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_equal_those_of_the_inputs_in_transformers(
    variant: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder(variant)
    model = Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    seen: dict[str, torch.Tensor] = {}
    for key, name in MODULES.items():
        module = model.model.layers[0].get_submodule(name)
        module.register_forward_pre_hook(
            lambda _module, inputs, key=key: seen.update({key: inputs[0].flatten(0, 1)})
        )
    with torch.inference_mode():
        output = model(IDS, output_hidden_states=True).hidden_states[1]
    grams, hidden = captured(folder)
    assert float((hidden - output).abs().max()) < 1e-4
    for key in LINEARS:
        x = seen[key]
        expected = x.T @ x / len(x)
        assert grams[key].tokens == IDS.numel()
        assert torch.allclose(grams[key].captured, expected, atol=1e-4 * float(expected.max()))
        assert torch.allclose(grams[key].mean_abs, x.abs().mean(dim=0), rtol=1e-3, atol=1e-6)


def test_the_batch_size_does_not_matter(
    checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, hidden = captured(checkpoint_folder("gqa"))
    monkeypatch.setattr("calib.batches.BATCH_TOKENS", 48)
    parts, hidden_too = captured(checkpoint_folder("gqa"))
    assert torch.allclose(hidden, hidden_too, atol=1e-5)
    for key in LINEARS:
        assert torch.allclose(whole[key].captured, parts[key].captured, rtol=1e-4, atol=1e-5)


def test_dividing_channels_equals_capturing_again() -> None:
    x = torch.randn(100, 12, generator=torch.Generator().manual_seed(0))
    scales = torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.1
    # In two steps, since folds follow one another.
    gram = Gram.of(x).divided(scales.sqrt()).divided(scales.sqrt())
    again = Gram.of(x / scales)
    assert torch.allclose(gram.matrix(), again.captured, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gram.mean_abs, again.mean_abs, rtol=1e-4)
    assert torch.allclose(gram.diagonal(), again.captured.diagonal(), rtol=1e-4)
    assert torch.allclose(gram.blocks(4), diagonal_blocks(again.captured, 4), rtol=1e-4, atol=1e-5)
    places = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    assert torch.equal(gram.matrix(places), gram.matrix()[places][:, places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_errors_from_fast_products_are_close_to_exact_ones(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phi3quant.quant.gram, "product_dtype", lambda *_: dtype)
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(256, generator=generator) + 0.5
    x = torch.randn(500, 256, generator=generator)
    # A few channels are a hundred times as large as the others, and all tokens share a mean.
    x[:, ::60] *= 100
    x += 3
    weight = torch.randn(64, 256, generator=generator)
    error = weight - weight.round()
    fast = Gram.of(x).divided(scales).output_error(error)
    exact = output_error(error.double(), Gram.of((x / scales).double()).captured).float()
    assert torch.allclose(fast, exact, rtol=1e-2)
    # Rounding the moments shifts all rows alike.
    assert abs(float(fast.sum() / exact.sum()) - 1) < 3e-3


def test_the_output_error_equals_that_of_running_the_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    x, error = torch.randn(50, 8, generator=generator), torch.randn(3, 8, generator=generator)
    direct = (x @ error.T).square().mean(dim=0)
    assert torch.allclose(output_error(error, x.T @ x / 50), direct, rtol=1e-4)


def test_errors_of_groups_use_only_the_diagonal_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    x, error = torch.randn(50, 12, generator=generator), torch.randn(3, 12, generator=generator)
    gram = x.T @ x / 50
    assert torch.equal(diagonal_blocks(gram, 4)[1], gram[4:8, 4:8])
    errors = grouped_output_error(error, gram, 4)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        direct = (x[:, part] @ error[:, part].T).square().mean(dim=0)
        assert torch.allclose(errors[:, group], direct, rtol=1e-4)


def correlated(columns: int) -> Gram:
    """Statistics of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(columns)
    mixing = torch.randn(columns, columns, generator=generator)
    return Gram.of(torch.randn(500, columns, generator=generator) @ mixing)


@pytest.mark.parametrize("columns", [12, 300])
def test_the_factor_belongs_to_the_damped_inverse(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phi3quant.quant.gram, "_STRIP", 128)
    gram = correlated(columns)
    places = torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    damped = Damped.of(gram, places, 0.1)
    rows = torch.randn(7, columns, generator=torch.Generator().manual_seed(1))
    whole = gram.matrix() + 0.1 * gram.diagonal().mean() * torch.eye(columns)
    assert torch.allclose(damped.solve(rows) @ whole, rows, rtol=1e-3, atol=1e-3)
    factor = damped.inverse_factor()
    ordered = whole[places][:, places]
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor, torch.linalg.inv(ordered), rtol=1e-3, atol=1e-5)
    for useless in (0.0, math.inf, math.nan):
        gram = Gram(torch.full((5, 5), useless), torch.ones(5), 1)
        assert torch.equal(Damped.of(gram, torch.arange(5), 0.1).inverse_factor(), torch.eye(5))


def test_remaining_metrics_are_schur_complements_of_the_later_columns() -> None:
    statistics = correlated(12)
    metrics = remaining_metrics(Damped.of(statistics, torch.arange(12), 1e-9).inverse_factor(), 4)
    gram = statistics.captured
    for group in range(3):
        here, later = slice(4 * group, 4 * group + 4), slice(4 * group + 4, None)
        lost = gram[here, later] @ torch.linalg.solve(gram[later, later], gram[later, here])
        assert torch.allclose(metrics[group], gram[here, here] - lost, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_statistics_without_information_are_degenerate(value: float) -> None:
    gram = Gram(torch.full((5, 5), value), torch.ones(5), 1)
    assert gram.degenerate
    assert torch.equal(Damped.of(gram, torch.arange(5), 0.1).lower, torch.eye(5))
    assert not Gram.of(torch.ones(3, 5)).degenerate
    assert Gram.of(torch.full((3, 5), 1e-30)).degenerate


def test_an_indefinite_matrix_is_damped_more() -> None:
    indefinite = torch.eye(4) + torch.full((4, 4), 0.5)
    indefinite[0, 1] = indefinite[1, 0] = 1.6
    gram = Gram(indefinite, torch.ones(4), 9)
    assert float(torch.linalg.eigvalsh(indefinite).min()) < 0
    expected = indefinite + 0.1 * float(indefinite.diagonal().mean()) * torch.eye(4)
    factor = Damped.of(gram, torch.arange(4), 1e-2).lower
    assert torch.allclose(factor @ factor.T, expected.flip(0, 1), atol=1e-5)
