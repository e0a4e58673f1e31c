from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calib.activations import Shelf
from calib.capture import advance, batches
from calib.streams import FIRST_TOKEN_WEIGHT, Streams, walk
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.decoder_block import SequenceContext, decoder_block, linear, sequence_context
from phi3quant.model.precision import for_products
from phi3quant.quant.folds import FOLDS, folded
from phi3quant.quant.gram import Gram
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS

LENGTH, WINDOWS = 40, 5


class Case:
    """A block, the same block after its folds and with damaged weights, and two streams."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        generator = torch.Generator().manual_seed(0)
        self.config = checkpoint.config
        self.context: SequenceContext = sequence_context(self.config, LENGTH)
        self.block: Block = checkpoint.block(0)
        self.scales = {
            name: torch.rand(width, generator=generator) + 0.5 for name, width in self.widths()
        }
        self.moved = folded(self.block, self.scales, self.config)
        self.damaged = {}
        for name in LINEARS:
            weight = self.moved[name]
            noise = torch.randn(weight.shape, generator=generator)
            self.damaged[name] = weight + 0.1 * weight.std() * noise
        shape = (WINDOWS, LENGTH, self.config.hidden_size)
        self.clean = torch.randn(shape, generator=generator)
        self.actual = self.clean + 0.1 * torch.randn(shape, generator=generator)

    def streams(self) -> Streams:
        return Streams(self.clean.clone(), self.actual.clone())

    def widths(self) -> list[tuple[str, int]]:
        widths = []
        for name, fold in FOLDS.items():
            rows = len(self.block[fold.producer][fold.producer_rows(self.config)])
            widths.append((name, rows))
        return widths

    def ready(self) -> Block:
        return for_products({**self.moved, **self.damaged})


@pytest.fixture(params=[*VARIANTS])
def case(request: pytest.FixtureRequest, checkpoint_folder: Callable[[str], Path]) -> Case:
    return Case(checkpoint_folder(request.param))


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
def test_both_streams_equal_the_outputs_of_the_blocks(
    case: Case, *, stored: bool, tmp_path: Path
) -> None:
    """Bit for bit, because a resumed run computes the states with the blocks."""
    ready, original = case.ready(), for_products(case.block)
    streams, shelf = case.streams(), Shelf(tmp_path if stored else None)
    result = walk(
        (original, case.moved),
        case.scales,
        case.context,
        streams,
        lambda name, _gram, _shortfall: ready[name],
        shelf,
    )
    advance(original, case.context, case.clean)
    advance(ready, case.context, case.actual)
    assert torch.equal(torch.cat(list(batches(streams.clean))), case.clean)
    assert torch.equal(torch.cat(list(batches(result))), case.actual)


def test_shortfalls_are_the_differences_of_outputs(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with both streams through observed blocks, in the units of the original.

    The first token of a window counts more in qkv_proj.
    """
    for module in ("calib.streams", "calib.sums"):
        monkeypatch.setattr(f"{module}.product_dtype", lambda *_: torch.float32)
    received: dict[str, tuple[Gram, torch.Tensor]] = {}

    def choose(name: str, gram: Gram, shortfall: torch.Tensor) -> torch.Tensor:
        received[name] = gram, shortfall
        return case.damaged[name]

    walk((case.block, case.moved), case.scales, case.context, case.streams(), choose, Shelf())
    original = observed(case, case.block, case.clean)
    quantized = observed(case, {**case.moved, **case.damaged}, case.actual)
    for name in LINEARS:
        x, y = quantized[name].inputs, original[name].outputs
        rows = torch.ones(len(case.block[name]), 1)
        for consumer, scales in case.scales.items():
            fold = FOLDS[consumer]
            if fold.producer == name:
                rows[fold.producer_rows(case.config), 0] = scales
        difference = y / rows.T - x @ case.moved[name].T
        if name in ("o_proj", "down_proj"):
            difference += original[name].residual - quantized[name].residual
        gram, shortfall = received[name]
        weights = torch.ones(WINDOWS, LENGTH)
        if name == "qkv_proj":
            weights[:, 0] = FIRST_TOKEN_WEIGHT * LENGTH / 512
        weighted = x * (weights / weights.sum()).flatten()[:, None]
        expected = difference.T @ weighted
        assert torch.allclose(gram.captured, x.T @ weighted, rtol=1e-3, atol=1e-4)
        assert torch.allclose(shortfall, expected, atol=2e-3 * float(expected.abs().max()))


class Observation:
    """Inputs and outputs of a linear, and the residual stream to which it adds, by token."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    residual: torch.Tensor


def observed(case: Case, block: Block, hidden: torch.Tensor) -> dict[str, Observation]:
    seen = {name: Observation() for name in LINEARS}

    def product(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = linear(x, weight)
        seen[name].inputs, seen[name].outputs = x.flatten(0, 1), out.flatten(0, 1)
        return out

    final = decoder_block(block, case.context, hidden, product).flatten(0, 1)
    seen["o_proj"].residual = hidden.flatten(0, 1)
    seen["down_proj"].residual = final - seen["down_proj"].outputs
    return seen
