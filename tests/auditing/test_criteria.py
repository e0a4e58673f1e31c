"""Each criterion, shown by a checkpoint that agrees with itself and contradicted by a changed one.

The checkpoint is that of conftest.py; each case changes one thing.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from phi3quant.auditing.audit import audit
from phi3quant.auditing.criteria import CRITERIA
from phi3quant.auditing.finding import Standing
from phi3quant.auditing.grade import Grade
from tests.auditing.conftest import change_json, replace_in, write_json

NAMES = tuple(CRITERIA)
Change = Callable[[Path], object]


def card(before: str, after: str) -> Change:
    return lambda folder: replace_in(folder / "README.md", before, after)


def settings(changes: Mapping[str, object]) -> Change:
    return lambda folder: change_json(folder / "tokenizer_config.json", **changes)


def test_a_checkpoint_that_agrees_with_itself_has_the_best_grade(folder: Path) -> None:
    result = audit(folder)
    standings = {finding.name: finding.standing for finding in result.findings}
    assert tuple(standings) == NAMES
    # Hashes are recorded by a manifest, and plain checkpoints have none.
    assert standings.pop("versioning") is Standing.PARTLY
    assert set(standings.values()) == {Standing.SHOWN}, result.findings
    assert result.grade is Grade.A


CONTRADICTIONS: list[tuple[str, str, Change]] = [
    (
        "architecture provenance",
        "num_hidden_layers 3; the model has 2",
        card("| 2, 64 |", "| 3, 64 |"),
    ),
    (
        "architecture provenance",
        "hidden_size 128; the model has 64",
        card("| 2, 64 |", "| 2, 128 |"),
    ),
    (
        "architecture provenance",
        "num_key_value_heads 8; the model has 2",
        card("| 4, 2 |", "| 4, 8 |"),
    ),
    (
        "architecture provenance",
        "num_hidden_layers 33",
        card("The model has", "It is a decoder with 33 layers. The model has"),
    ),
    (
        "architecture provenance",
        "max_position_embeddings 128K; the model has 256",
        card("| 256 tokens |", "| 128K tokens |"),
    ),
    (
        "architecture provenance",
        "num_hidden_layers is 2, not 3",
        card("microsoft/Phi-3-mini-4k", "microsoft/Phi-3-medium-4k"),
    ),
    (
        "tokenizer integrity",
        "ends an answer with <|end|> (6); generation stops at 2",
        lambda folder: write_json(folder / "generation_config.json", {"eos_token_id": 2}),
    ),
    (
        "tokenizer integrity",
        "writes <|im_end|>, which the vocabulary doesn't have",
        lambda folder: replace_in(folder / "tokenizer_config.json", "<|end|>", "<|im_end|>"),
    ),
    ("tokenizer integrity", "bos_token </s> is 2; stated is 1", settings({"bos_token": "</s>"})),
    (
        "tokenizer integrity",
        "not in the vocabulary: pad_token <pad>",
        settings({"pad_token": "<pad>"}),
    ),
    (
        "tokenizer integrity",
        "<|user|> is 5, not 3",
        settings({"added_tokens_decoder": {"5": {"content": "<|user|>"}}}),
    ),
    ("tokenizer integrity", "template failed", settings({"chat_template": "{% for %}"})),
    (
        "tokenizer integrity",
        "leaves out the assistant's turn",
        settings({"chat_template": "<|user|>{{ messages[0]['content'] }}<|end|>"}),
    ),
    ("parameter count", "states 7B parameters; the shapes give 102,720", card("102,720", "7B")),
    ("parameter count", "states 102,721,000", card("102,720", "102,721,000")),
    (
        "training compute",
        "of the hardware's peak",
        card("3.2M tokens", "900000T tokens"),
    ),
    ("licence", "the licence file is mit", card("license: mit", "license: apache-2.0")),
    (
        "licence",
        "the licence file is apache-2.0",
        lambda folder: (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004"),
    ),
    ("hardware footprint", "states 99.5 MB", card("a download of", "a download of 99.5 MB, once")),
    ("hardware footprint", "states 100 kB of memory", card("1 GB of memory", "100 kB of memory")),
    (
        "identity consistency",
        "is phi-3-medium-4k, but num_hidden_layers is 2, not 3",
        lambda folder: change_json(folder / "config.json", _name_or_path="me/Phi-3-medium-4k"),
    ),
    (
        "identity consistency",
        "names Llama",
        card("# Phi-3-mini-4k-tuned", "# Llama-3-8B-Instruct"),
    ),
]


@pytest.mark.parametrize(("criterion", "evidence", "change"), CONTRADICTIONS)
def test_one_changed_statement_contradicts_one_criterion(
    folder: Path, criterion: str, evidence: str, change: Change
) -> None:
    change(folder)
    result = audit(folder)
    changed = [each.name for each in result.findings if each.standing is Standing.CONTRADICTED]
    assert criterion in changed, result[criterion]
    assert result.grade > Grade.B
    assert evidence in "\n".join(
        point.text for point in result[criterion].points if point.standing is Standing.CONTRADICTED
    )
    assert all(point.place for point in result[criterion].points if "more" not in point.text)


def test_without_a_card_or_licence_nothing_is_bad(folder: Path) -> None:
    for name in ("README.md", "LICENSE"):
        (folder / name).unlink()
    result = audit(folder)
    assert result.grade is Grade.B
    assert result.tally.contradicted == 0
    for name in ("licence", "training compute", "dataset disclosure", "benchmark reproducibility"):
        assert result[name].standing is Standing.NOT_SHOWN
    for name in ("parameter count", "hardware footprint", "architecture provenance"):
        assert result[name].standing is Standing.PARTLY


HARMLESS: list[Change] = [
    # Other models and parts of a model have other numbers of layers and parameters.
    card("The model has", "A LoRA of 8 layers was merged. Like models with 7B parameters, it has"),
    card("| layers, hidden size | 2, 64 |", "| hidden size | 64 |"),
    card("license: mit", "license: MIT License"),
    card("license: mit", "license: other"),
    card("102,720", "103K"),
    card("102,720", "0.10M"),
    card("| 256 tokens |", "| 0.25K tokens |"),
    card("| 320 |", "| 320 (byte-level BPE) |"),
    card("## Training", "```\nlayers: 99\nfile size: 80 GB\n```\n## Training"),
    card("runs in 1 GB of memory", "runs in 100 GB of memory"),
    card("## Evaluation", "A Q4_0 GGUF file has 99 GB.\n\n## Evaluation"),
    lambda folder: change_json(folder / "config.json", _name_or_path="/home/me/checkpoint-1200"),
    lambda folder: (folder / "LICENSE").write_text("Ask us.", encoding="utf-8"),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_statements_that_may_be_true_contradict_nothing(folder: Path, change: Change) -> None:
    change(folder)
    result = audit(folder)
    contradicted = [each for each in result.findings if each.standing is Standing.CONTRADICTED]
    assert not contradicted


def test_a_shape_without_a_published_member_is_not_shown(folder: Path) -> None:
    shutil.move(folder, folder.with_name("mine"))
    replace_in(folder.with_name("mine") / "README.md", "base_model:", "base:")
    result = audit(folder.with_name("mine"))
    texts = [point.text for point in result["architecture provenance"].points]
    assert "the shape of phi-3-mini-4k" in texts
    assert "no base model is stated by a card, the metadata or a manifest" in texts
