import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from phi3quant.errors import InputError
from phi3quant.evaluation.perplexity import Comparison, Score, score, steps
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY, make_model

WINDOWS = torch.randint(0, VOCABULARY, (5, 30), generator=torch.Generator().manual_seed(2))


def reference_log_probabilities(folder: Path) -> torch.Tensor:
    model = Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    with torch.inference_mode():
        return functional.log_softmax(model(WINDOWS).logits[:, :-1], dim=-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_equal_transformers(variant: str, checkpoint_folder: Callable[[str], Path]) -> None:
    folder = checkpoint_folder(variant)
    log = reference_log_probabilities(folder)
    expected = -log.gather(2, WINDOWS[:, 1:, None]).squeeze(2)
    found = score([open_checkpoint(folder)], WINDOWS)[0].candidate
    assert found.nll.shape == (5, 29)
    assert torch.allclose(found.nll.float(), expected, atol=1e-3)
    assert found.perplexity == pytest.approx(math.exp(float(expected.double().mean())), rel=1e-4)


def test_divergence_and_agreement_equal_a_direct_computation(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    make_model(tmp_path, seed=7)
    first, second = checkpoint_folder("gqa"), tmp_path
    own, other = (reference_log_probabilities(folder) for folder in (first, second))
    kl = (own.exp() * (own - other)).sum(dim=-1)
    same = (own.argmax(-1) == other.argmax(-1)).float().mean()
    compared = score([open_checkpoint(first), open_checkpoint(second)], WINDOWS)[1]
    assert torch.allclose(compared.kl.float(), kl, rtol=1e-3, atol=1e-3)
    assert compared.same_top == pytest.approx(float(same), abs=0.01)


def test_a_model_beside_itself_differs_by_nothing(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    for compared in score([checkpoint, checkpoint], WINDOWS):
        assert compared.ratio == 1.0
        assert compared.interval == (1.0, 1.0)
        assert compared.same_top == 1.0
        assert float(compared.kl.max()) == 0.0


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(300):
        reference = torch.randn(40, 20, generator=generator, dtype=torch.float64)
        # Windows differ in how much they suffer, so tokens of one window go together.
        shift = 0.05 + 0.02 * torch.randn(40, 1, generator=generator, dtype=torch.float64)
        compared = Comparison(Score(reference), Score(reference + shift), torch.zeros(40, 20), 1.0)
        low, high = compared.interval
        hits += low <= math.exp(0.05) <= high
    assert 270 <= hits <= 297


def test_a_model_that_gives_nan_is_counted_not_hidden() -> None:
    broken = Score(torch.tensor([[1.0, math.nan], [math.inf, 2.0]], dtype=torch.float64))
    assert broken.not_finite == 2
    assert not math.isfinite(broken.perplexity)


def test_ids_outside_the_vocabulary_are_refused(checkpoint_folder: Callable[[str], Path]) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    with pytest.raises(InputError, match="token 320, but the vocabulary ends at 319"):
        score([checkpoint], torch.tensor([[1, 320]]))


def test_progress_counts_every_block_and_the_head(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "copy")
    models = [open_checkpoint(checkpoint_folder("gqa")), open_checkpoint(tmp_path / "copy")]
    done: list[int] = []
    score(models, WINDOWS, done.append)
    assert sum(done) == steps(models) == 5
