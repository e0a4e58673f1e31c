"""The gate on the bundled model: what passes, what fails, what it refuses to compare."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from phi3quant.disk.output import MANIFEST
from phi3quant.errors import CorpusError, InputError, NotComparableError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.baseline import read_baseline, write_baseline
from phi3quant.gating.baselines import create_baseline, update_baseline
from phi3quant.gating.check import Limits, check
from phi3quant.gating.check_report import CheckReport
from phi3quant.gating.gate import Verdict
from phi3quant.gating.gate_report import as_json
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import bundled_folder
from tests.faults import FAULTS, flip_bit, resealed, scale_name, with_codes, with_config
from tests.models import make_model

RECIPE = Recipe("rtn", QuantScheme(4, 32, symmetric=False))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """phi3-tiny in 4 bits with zero points."""
    folder = tmp_path_factory.mktemp("good") / "out"
    quantize("phi3-tiny", folder, RECIPE)
    return folder


@pytest.fixture(scope="module")
def baseline(good: Path) -> Path:
    """Recorded from it, on 4,088 tokens."""
    path = good.parent / "good.baseline"
    create_baseline(good, path, text=EvaluationText(max_tokens=4096))
    return path


@pytest.fixture
def spoiled(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "spoiled"))


def verdicts(report: CheckReport) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in report.findings}


def test_the_artifact_of_the_baseline_passes_and_has_not_drifted(
    good: Path, baseline: Path
) -> None:
    report = check(good, baseline)
    assert report.exit_code == 0
    assert set(verdicts(report).values()) == {Verdict.PASS}
    budget, drift, divergence = report.gates
    assert 1.0 < budget.measured.ratio < 1.01
    assert drift.measured.interval == pytest.approx((1.0, 1.0), abs=1e-6)
    assert divergence.measured.interval == pytest.approx((1.0, 1.0), abs=1e-6)
    assert not report.notes
    assert report.metrics is not None
    assert report.metrics["perplexity_past_window"] > 1
    assert report.metrics["same_top"] > 0.9
    assert report.worst[0].ratio >= report.worst[-1].ratio > 1
    assert report.worst[0].token in report.worst[0].text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_on_4000_tokens(
    fault: str, good: Path, baseline: Path, tmp_path: Path
) -> None:
    report = check(FAULTS[fault](good, tmp_path / "bad"), baseline)
    assert report.exit_code == 1
    # By the statistics alone, whatever the exact checks say.
    assert verdicts(report)["drift"] is Verdict.FAIL
    assert report.gates[1].measured.interval[0] > 1.1


@pytest.mark.parametrize(
    ("fault", "words"),
    [("wrong RoPE base", "rope_theta is 500000"), ("missing sliding window", "sliding_window")],
)
def test_a_changed_architecture_is_named(
    fault: str, words: str, good: Path, baseline: Path, tmp_path: Path
) -> None:
    report = check(FAULTS[fault](good, tmp_path / "bad"), baseline)
    (finding,) = (each for each in report.findings if each.name == "architecture")
    assert finding.verdict is Verdict.FAIL
    assert words in finding.message


def test_another_format_of_the_same_codes_has_not_drifted(baseline: Path, tmp_path: Path) -> None:
    both = replace(RECIPE, formats=("awq-gemm",))
    quantize("phi3-tiny", tmp_path / "gemm", both)
    report = check(tmp_path / "gemm", baseline)
    assert report.exit_code == 0, report.findings
    assert report.gates[1].measured.ratio == pytest.approx(1, abs=1e-6)
    assert any("the format is" in note for note in report.notes)


def test_a_flipped_bit_is_not_compared_and_its_file_is_named(spoiled: Path, baseline: Path) -> None:
    flip_bit(spoiled / "model.safetensors", scale_name(spoiled))
    with pytest.raises(NotComparableError, match=r"model\.safetensors has SHA-256"):
        check(spoiled, baseline)


def test_a_scale_that_became_infinite_is_named_where_no_manifest_tells(
    spoiled: Path, baseline: Path
) -> None:
    (spoiled / MANIFEST).unlink()
    name = scale_name(spoiled)
    file = spoiled / "model.safetensors"
    tensors = load_file(file)
    tensors[name][0, 0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    report = check(spoiled, baseline)
    assert report.exit_code == 1
    assert name.removesuffix("_scale") in report.findings[0].message


def test_damage_too_small_for_the_losses_shows_in_the_divergence(
    good: Path, baseline: Path, tmp_path: Path
) -> None:
    bad = with_codes(
        good,
        tmp_path / "bad",
        lambda index, key, tensor: (
            replace(tensor, scales=tensor.scales.flip(0))
            if (index, key) == (2, "down_proj")
            else tensor
        ),
    )
    report = check(bad, baseline)
    assert report.exit_code == 0
    _, drift, divergence = report.gates
    assert not drift.creeping
    assert divergence.creeping
    assert any("as full precision predicts it" in note for note in report.notes)


def test_a_chat_template_that_changed_fails(spoiled: Path, baseline: Path) -> None:
    settings = json.loads((spoiled / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"].replace("<|end|>", "<|endoftext|>")
    (spoiled / "tokenizer_config.json").write_text(json.dumps(settings))
    resealed(spoiled)
    found = verdicts(check(spoiled, baseline))
    assert found["chat template"] is found["chat tokens"] is Verdict.FAIL
    assert found["drift"] is Verdict.PASS


def test_a_branch_of_the_chat_template_that_changed_fails(spoiled: Path, baseline: Path) -> None:
    settings = json.loads((spoiled / "tokenizer_config.json").read_text())
    settings["chat_template"] += "{% if tools %}{{ tools }}{% endif %}"
    (spoiled / "tokenizer_config.json").write_text(json.dumps(settings))
    resealed(spoiled)
    found = verdicts(check(spoiled, baseline))
    assert found["chat template"] is Verdict.FAIL
    assert found["chat tokens"] is Verdict.PASS


def test_stop_tokens_that_changed_fail(spoiled: Path, baseline: Path) -> None:
    (spoiled / "generation_config.json").write_text('{"eos_token_id": [2000]}')
    resealed(spoiled)
    report = check(spoiled, baseline)
    assert verdicts(report)["stop tokens"] is Verdict.FAIL
    assert report.exit_code == 1


def test_too_little_text_says_so_instead_of_passing(good: Path, tmp_path: Path) -> None:
    create_baseline(good, tmp_path / "short", text=EvaluationText(max_tokens=600))
    report = check(good, tmp_path / "short")
    assert report.exit_code == 3
    assert report.verdict is Verdict.UNDERPOWERED
    assert check(good, tmp_path / "short", Limits(allow_underpowered=True)).exit_code == 0


def test_limits_are_the_given_ones_or_go_by_the_recipes_bits(good: Path, baseline: Path) -> None:
    given = check(good, baseline, Limits(budget=0.02, drift=0.01))
    assert [gate.limit for gate in given.gates] == [0.02, 0.01, 0.01]
    by_default = check(good, baseline)
    assert [gate.limit for gate in by_default.gates] == [0.15, 0.005, 0.005]


def test_a_model_that_gives_nan_fails(spoiled: Path, baseline: Path) -> None:
    file = spoiled / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"].fill_(6e4)
    tensors["lm_head.weight"].fill_(6e4)
    tensors["model.norm.weight"][::2] = -6e4
    save_file(tensors, file, metadata={"format": "pt"})
    resealed(spoiled)
    report = check(spoiled, baseline)
    assert report.exit_code == 1
    json.dumps(as_json(report), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_sha256": "0" * 64}, "the SHA-256 of tiny is"),
        ({"tokens_sha256": "0" * 64}, "the SHA-256 of the token ids of tiny is"),
        ({"vocabulary_sha256": "0" * 64}, "another tokenizer than the baseline"),
    ],
)
def test_a_baseline_of_another_text_or_tokenizer_is_refused(
    changes: dict[str, object], message: str, good: Path, baseline: Path, tmp_path: Path
) -> None:
    old = read_baseline(baseline)
    write_baseline(tmp_path / "b", replace(old, text={**old.text, **changes}))
    with pytest.raises(NotComparableError, match=message):
        check(good, tmp_path / "b")


def test_a_baseline_of_a_longer_context_is_refused(
    good: Path, baseline: Path, tmp_path: Path
) -> None:
    short = with_config(good, tmp_path / "short", {"max_position_embeddings": 256})
    with pytest.raises(NotComparableError, match=r"windows have 512 tokens, .* context of 256"):
        check(short, baseline)


def test_an_artifact_of_another_recipe_is_refused(baseline: Path, tmp_path: Path) -> None:
    quantize("phi3-tiny", tmp_path / "out", Recipe("rtn", QuantScheme(4, 64, symmetric=False)))
    with pytest.raises(NotComparableError, match=r"another recipe .* group_size is 64, was 32"):
        check(tmp_path / "out", baseline)


def test_an_artifact_of_other_weights_is_refused(baseline: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled_folder(), tmp_path / "tuned")
    flip_bit(tmp_path / "tuned" / "model.safetensors", "model.norm.weight")
    quantize(tmp_path / "tuned", tmp_path / "out", RECIPE)
    with pytest.raises(NotComparableError, match="made from other weights"):
        check(tmp_path / "out", baseline)
    with pytest.raises(NotComparableError, match="made from other weights"):
        update_baseline(tmp_path / "out", baseline, "because")
    with pytest.raises(NotComparableError, match="was not made from phi3-tiny"):
        create_baseline(tmp_path / "out", tmp_path / "b", reference="phi3-tiny")


def test_an_unrelated_model_is_refused(baseline: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "random")
    with pytest.raises(NotComparableError, match="another tokenizer"):
        check(tmp_path / "random", baseline)


def test_text_that_is_gone_is_bad_input_and_may_lie_elsewhere(good: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The miller counted nineteen sacks. " * 200)
    create_baseline(good, tmp_path / "b", text=EvaluationText(text, max_tokens=2048))
    text.rename(tmp_path / "moved.txt")
    with pytest.raises(CorpusError, match="there is no text"):
        check(good, tmp_path / "b")
    assert check(good, tmp_path / "b", text=tmp_path / "moved.txt").metrics


def test_an_update_replaces_the_artifact_for_a_reason(
    good: Path, baseline: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b"
    shutil.copyfile(baseline, path)
    quantize("phi3-tiny", tmp_path / "coarse", Recipe("rtn", QuantScheme(4, 64)))
    made = update_baseline(tmp_path / "coarse", path, "smaller files")
    assert made.drift is not None
    assert made.drift.ratio > 1.001
    assert [entry["reason"] for entry in made.baseline.history] == ["created", "smaller files"]
    assert check(tmp_path / "coarse", path).exit_code == 0
    with pytest.raises(NotComparableError, match="another recipe"):
        check(good, path)
    with pytest.raises(InputError, match="reason is required"):
        update_baseline(tmp_path / "coarse", path, "  ")


def test_a_baseline_needs_to_know_its_reference(spoiled: Path, tmp_path: Path) -> None:
    (spoiled / MANIFEST).unlink()
    with pytest.raises(InputError, match="pass that as reference"):
        create_baseline(spoiled, tmp_path / "b")
    text = EvaluationText(max_tokens=1024)
    made = create_baseline(spoiled, tmp_path / "b", reference="phi3-tiny", text=text)
    assert made.beside.ratio > 1
    plain = create_baseline("phi3-tiny", tmp_path / "p", text=text)
    assert plain.beside.ratio == pytest.approx(1, abs=1e-6)
