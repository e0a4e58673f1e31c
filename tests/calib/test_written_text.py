"""Text that a model writes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calib import written_text
from calib.prompts import Prompts, prompts_of
from calib.written_text import batch_size, sample, written_windows
from phi3quant.errors import CheckpointError
from phi3quant.model.precision import product_dtype
from phi3quant.progress import silent
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer
from tests.models import VARIANTS, VOCABULARY, make_model, own_logits

USER, ASSISTANT, END, STOP = 3, 4, 6, 2
PROMPTS = Prompts((), (40, 41, 42), (USER, 50), (END, 50, ASSISTANT, 50), frozenset({STOP, END}))
ALL = frozenset(range(VOCABULARY))


def write(
    folder: Path,
    shape: tuple[int, int] = (6, 40),
    seed: int = 0,
    prompts: Prompts = PROMPTS,
    tokens: frozenset[int] = ALL,
    memory: int | None = None,
) -> torch.Tensor:
    with silent("", 0) as step:
        return written_windows(
            open_checkpoint(folder), prompts, tokens, shape, seed, step, max_memory=memory
        )


def test_a_sample_is_the_quantile_of_a_distribution() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    allowed = torch.ones(4, dtype=torch.bool)
    for chance, token in ((0.0, 0), (0.099, 0), (0.101, 1), (0.59, 2), (0.61, 3), (0.9999999, 3)):
        chances = torch.tensor([chance], dtype=torch.float64)
        assert sample(scores, allowed, chances).tolist() == [token]
    # Half of the mass is gone, the rest keeps its proportions.
    allowed[[0, 3]] = False
    for chance, token in ((0.0, 1), (0.39, 1), (0.41, 2), (0.9999999, 2)):
        chances = torch.tensor([chance], dtype=torch.float64)
        assert sample(scores, allowed, chances).tolist() == [token]


def test_scores_that_are_not_finite_are_refused() -> None:
    chances = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="predictions are not finite"):
        sample(torch.full((1, 4), torch.nan), torch.ones(4, dtype=torch.bool), chances)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_quantiles_of_what_the_whole_window_predicts(
    variant: str, checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # LongRoPE's variant changes its factors after 40 tokens; a window of 44 has the long ones.
    monkeypatch.setattr(written_text, "for_products", lambda block: block)
    folder = checkpoint_folder(variant)
    prompts = Prompts((), (40, 41), (), (), frozenset())
    ids = write(folder, (3, 44), seed=7, prompts=prompts)
    random = torch.Generator().manual_seed(7)
    chances = torch.stack(
        [torch.rand(2, 44, generator=random, dtype=torch.float64) for _ in range(3)]
    )[:, 1, :-1]
    probabilities = own_logits(open_checkpoint(folder), ids)[:, :-1].double().softmax(dim=-1)
    sums = probabilities.cumsum(dim=-1)
    above = sums.gather(-1, ids[:, 1:, None])[..., 0]
    below = above - probabilities.gather(-1, ids[:, 1:, None])[..., 0]
    assert (chances < above + 1e-4).all()
    assert (chances > below - 1e-4).all()


def test_the_same_seed_gives_the_same_text_in_any_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path)
    once = write(tmp_path)
    assert once.shape == (6, 40)
    assert torch.equal(write(tmp_path), once)
    assert not torch.equal(write(tmp_path, seed=1), once)
    monkeypatch.setattr(written_text, "_CACHE_BYTES", 0)
    alone = write(tmp_path)
    # Products of other shapes round otherwise, and in BF16 that shows now and then.
    if product_dtype() is torch.float32:
        assert torch.equal(alone, once)
    assert torch.equal(alone[:, 0], once[:, 0])


def test_weights_that_are_read_every_time_give_the_same_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path)
    assert torch.equal(write(tmp_path, memory=100_000), write(tmp_path))
    assert "the model is too large to stay in memory" in caplog.text


def test_padding_is_never_sampled(tmp_path: Path) -> None:
    make_model(tmp_path)
    some = frozenset(range(60, 90)) | {10_000}
    ids = write(tmp_path, prompts=Prompts((1,), (40, 41, 42), (), (), frozenset()), tokens=some)
    assert (ids[:, 0] == 1).all()
    assert set(ids[:, 1].tolist()) <= {40, 41, 42}
    assert set(ids[:, 2:].flatten().tolist()) <= set(range(60, 90))


def documents(ids: torch.Tensor) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for number in ids.tolist():
        parts[-1].append(number)
        if number in PROMPTS.stops:
            parts.append([])
    return [part for part in parts if part]


def test_after_a_stop_token_the_next_document_begins(tmp_path: Path) -> None:
    make_model(tmp_path)
    # A small vocabulary, so that windows have many ends.
    ids = write(tmp_path, (12, 60), tokens=frozenset({STOP, END, 70, 71, 72}))
    for window in ids[::2]:
        parts = documents(window)
        assert len(parts) > 2
        assert all(part[0] in PROMPTS.firsts for part in parts)
    assert len({part[0] for window in ids[::2] for part in documents(window)}) == 3


def test_a_turn_of_the_user_is_followed_by_an_answer(tmp_path: Path) -> None:
    make_model(tmp_path)
    ids = write(tmp_path, (12, 80), tokens=frozenset({STOP, END, 70, 71, 72}))
    question, answer = list(PROMPTS.question), list(PROMPTS.answer[1:])
    answers = 0
    for window in ids[1::2]:
        asked_before = False
        for part in documents(window):
            if asked_before:
                assert part[: len(answer)] == answer[: len(part)]
                answers += 1
            else:
                assert part[: len(question)] == question[: len(part)]
            # Only the token that ends a turn leads on to the answer.
            asked_before = not asked_before and part[-1] == END
    assert answers > 10


def test_batches_are_as_large_as_the_cache_allows_and_equal(tmp_path: Path) -> None:
    make_model(tmp_path)
    config = open_checkpoint(tmp_path).config
    # Keys and values of 2 heads with 16 values, FP32, in 2 blocks.
    window = 2 * 2 * 2 * 16 * 4 * (40 + 257)
    assert batch_size(config, (10, 40), 10 * window) == 10
    assert batch_size(config, (10, 40), 9 * window) == 5
    assert batch_size(config, (10, 40), 1) == 1


def test_prompts_of_a_model_with_bos_in_its_text() -> None:
    tokenizer = load_tokenizer(bundled_folder())
    prompts = prompts_of(tokenizer, frozenset({2000}), 64)
    assert prompts.start == ()
    assert set(prompts.firsts) == {1}
    assert tokenizer.decode(prompts.question).startswith("<|user|>")
    assert "<|end|>" in tokenizer.decode(prompts.answer)
    assert tokenizer.decode(prompts.answer).rstrip().endswith("<|assistant|>")


def prompts_with(tmp_path: Path, length: int = 64, **changes: object) -> Prompts:
    make_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    fields = {**vars(tokenizer), "special_tokens": {"bos_token": "<s>"}, **changes}
    return prompts_of(Tokenizer(**fields), frozenset(), length)


def test_plain_documents_begin_with_bos_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    assert prompts_with(tmp_path).start == ()
    prompts = prompts_with(tmp_path, adds_bos=True)
    assert prompts.start == (1,)
    assert len(set(prompts.firsts)) > 10


@pytest.mark.parametrize(
    ("template", "note"),
    [
        ("{{ raise_exception('no') }}", "writes only plain text, since the model's chat template"),
        ("<|user|>{{ messages[0].content | lower }}", "changes the user's text"),
        ("{{ 'x y z ' * 40 }}{{ messages[0].content }}", "has room for chats"),
    ],
)
def test_without_a_place_for_the_users_text_there_are_no_chats(
    template: str, note: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert prompts_with(tmp_path, chat_template=template).question == ()
    assert note.replace("has room", "have room") in caplog.text
