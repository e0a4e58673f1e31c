from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phi3quant.model.architecture import Block
from phi3quant.model.decoder_block import decoder_block, embed, sequence_context
from phi3quant.quant.folds import FOLDS, Fold
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY


def random_scales(fold: Fold, block: Block, seed: int, folder: Path) -> torch.Tensor:
    rows = fold.producer_rows(open_checkpoint(folder).config)
    channels = len(block[fold.producer][rows])
    return torch.exp(torch.randn(channels, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("names", [*[[name] for name in FOLDS], list(FOLDS)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_does_not_change_the_output_of_a_block(
    variant: str, names: list[str], checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder(variant)
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    block = checkpoint.block(0)
    folded = block
    for number, name in enumerate(names):
        scales = random_scales(FOLDS[name], block, number, folder)
        folded = FOLDS[name].apply(folded, scales, config)
        assert not torch.equal(folded[name], block[name])
    context = sequence_context(config, 60)
    hidden = embed(checkpoint.embedding(), torch.arange(60)[None] % VOCABULARY)
    before, after = (decoder_block(b, context, hidden) for b in (block, folded))
    assert float((before - after).abs().max()) < 1e-4 * float(before.abs().max())


def test_applying_a_fold_changes_no_tensor_in_place(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    block = checkpoint.block(0)
    kept = {key: value.clone() for key, value in block.items()}
    for name, fold in FOLDS.items():
        fold.apply(block, random_scales(fold, block, 0, checkpoint.folder), checkpoint.config)
        assert all(torch.equal(block[key], kept[key]) for key in block), name


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_cannot_be_inverted_is_refused(
    bad: float, checkpoint_folder: Callable[[str], Path]
) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    scales = torch.ones(64)
    scales[3] = bad
    with pytest.raises(ValueError, match="positive and finite"):
        FOLDS["qkv_proj"].apply(checkpoint.block(0), scales, checkpoint.config)


def test_under_gqa_query_heads_share_the_scales_of_their_value_head(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    config = open_checkpoint(checkpoint_folder("gqa")).config
    fold = FOLDS["o_proj"]
    scales = torch.arange(32.0)
    columns = fold.per_column(scales, config)
    # Four query heads of 16 values; the first two read value head 0, the others value head 1.
    assert columns.view(4, 16)[1].tolist() == list(range(16))
    assert columns.view(4, 16)[2].tolist() == list(range(16, 32))
    assert torch.equal(fold.per_channel(columns, config), scales)
