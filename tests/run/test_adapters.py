"""Adapters in whole runs: quantized, recorded, scored against, resumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from converters import open_tokenizer
from phi3quant import EvaluationText, evaluate, locate, quantize, verify
from phi3quant.cli.main import main
from phi3quant.disk.hashed_file import sha256
from phi3quant.errors import NotComparableError
from phi3quant.gating.baselines import create_baseline
from phi3quant.generation.generate import generate
from phi3quant.provenance.integrity import check_adapters
from phi3quant.run.calibration import Calibration
from phi3quant.run.recipe import Recipe
from tests.models import PROSE
from tests.source.test_adapter import make_adapter


@pytest.fixture
def base(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(checkpoint_folder("gqa"), tmp_path / "base"))


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return make_adapter(base, tmp_path / "lora")


@pytest.fixture
def text(tmp_path: Path) -> EvaluationText:
    (tmp_path / "text.txt").write_text(PROSE)
    return EvaluationText(tmp_path / "text.txt", length=64)


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    """The model that PEFT merges, as a checkpoint."""
    shutil.copytree(base, folder)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(folder)
    return folder


def cli(*arguments: str | Path | None) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def test_quantizing_with_an_adapter_equals_quantizing_the_merged_model(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    whole = quantize(merged(base, adapter, tmp_path / "merged"), tmp_path / "a", Recipe("rtn"))
    parts = quantize(locate(base, adapters=[adapter]), tmp_path / "b", Recipe("rtn"))
    files = [out.folders["compressed-tensors"] / "model.safetensors" for out in (whole, parts)]
    one, other = map(load_file, files)
    same = sum((one[name] == other[name]).sum().item() for name in one)
    # PEFT and phi3quant add in another order, which moves a value next to a rounding edge.
    assert same > 0.999 * sum(value.numel() for value in one.values())


def test_the_manifest_names_and_hashes_adapters(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = quantize(locate(base, adapters=[f"{adapter}=0.5"]), tmp_path / "out", Recipe("rtn"))
    manifest = json.loads((tmp_path / "out" / "phi3quant.json").read_text())
    (entry,) = manifest["source"]["adapters"]
    assert (entry["name"], entry["weight"]) == (str(adapter), 0.5)
    assert set(entry["sha256"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert out.source.title == f"base + {adapter}=0.5"


def test_the_gate_merges_the_recorded_adapter_into_the_original(
    base: Path, adapter: Path, tmp_path: Path, text: EvaluationText
) -> None:
    quantize(locate(base, adapters=[adapter]), tmp_path / "out", Recipe("rtn"))
    recorded = create_baseline(tmp_path / "out", tmp_path / "b", reference=base, text=text)
    direct = evaluate([locate(base, adapters=[adapter]), tmp_path / "out"], text)
    assert recorded.beside.ratio == pytest.approx(direct.comparisons[1].ratio)
    make_adapter(base, adapter, seed=9)
    with pytest.raises(NotComparableError, match="was not made from"):
        create_baseline(tmp_path / "out", tmp_path / "c", reference=base, text=text)


def test_scores_of_a_run_name_the_adapter(
    base: Path, adapter: Path, tmp_path: Path, text: EvaluationText
) -> None:
    artifacts = quantize(locate(base, adapters=[adapter]), tmp_path / "out", Recipe("rtn"))
    assert verify(artifacts, text).names[0] == f"base + {adapter}"


def test_verify_checks_recorded_adapters_with_the_source(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    quantize(locate(base, adapters=[adapter]), tmp_path / "out", Recipe("rtn"))
    words = ("verify", tmp_path / "out", "--source", base)
    assert f"{adapter}/adapter_model.safetensors: matches" in cli(*words).output
    make_adapter(base, adapter, seed=9)
    changed = cli(*words, "--quiet")
    assert changed.exit_code == 1
    assert changed.output.startswith(f"{adapter}/adapter_model.safetensors: has SHA-256")
    adapter.rename(tmp_path / "elsewhere")
    missing = cli(*words)
    assert missing.exit_code == 0
    assert f"the adapter {adapter} isn't in that folder any more" in missing.output
    assert json.loads(cli(*words, "--json").output)["unchecked_adapters"] == [str(adapter)]


@pytest.mark.parametrize("entry", ["x", {"name": 3}, {"name": ".", "sha256": {"../x": "0" * 64}}])
def test_malformed_adapters_of_a_manifest_are_refused(entry: object) -> None:
    with pytest.raises(NotComparableError):
        check_adapters({"source": {"adapters": [entry]}})


def test_adapters_of_an_artifact_are_shown(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(locate(base, adapters=[f"{adapter}=0.5"]), out, Recipe("rtn"))
    digest = sha256(adapter / "adapter_model.safetensors")
    shown = cli("inspect", out).output
    assert f"{adapter}=0.5" in shown
    assert f"{digest} adapter_model.safetensors" in " ".join(shown.split())
    audited = " ".join(cli("audit", out).output.split())
    assert "manifest source.adapters: with the adapter" in audited
    report = tmp_path / "report.html"
    assert cli("report", out, "--no-score", "-o", report).exit_code == 0
    assert f"{adapter}=0.5" in report.read_text()
    assert digest in report.read_text()


def test_commands_take_adapters(
    base: Path, adapter: Path, tmp_path: Path, text: EvaluationText
) -> None:
    scored = ("--text", str(text.source), "--window", "64")
    output = cli(
        "awq",
        base,
        "-o",
        tmp_path / "out",
        "--adapter",
        adapter,
        "--samples",
        "4",
        "--seq-len",
        "64",
        "--calib",
        str(text.source),
        *scored,
    )
    assert output.exit_code == 0, output.output
    result = cli("perplexity", base, tmp_path / "out", "--adapter", adapter, *scored, "--json")
    models = json.loads(result.stdout)["models"]
    assert models[0]["name"] == f"{base} + {adapter}"
    assert models[1]["ratio"] < 1.2
    plain = json.loads(cli("perplexity", base, tmp_path / "out", *scored, "--json").stdout)
    assert plain["models"][1]["kl_mean"] > 2 * models[1]["kl_mean"]
    compared = cli("compare", base, tmp_path / "out", "--adapter", adapter, *scored, "--json")
    assert compared.exit_code == 0, compared.output
    answer = cli(
        "generate",
        base,
        "The miller",
        "--raw",
        "--adapter",
        adapter,
        "--json",
        "--max-new-tokens",
        "8",
    )
    expected = generate(locate(base, adapters=[adapter]), "The miller", raw=True, max_new_tokens=8)
    assert json.loads(answer.stdout)["ids"] == list(expected.ids)
    assert cli("estimate", base, "--adapter", adapter, "--json").exit_code == 0
    exported = cli(
        "export",
        "gguf",
        base,
        "--adapter",
        adapter,
        "--type",
        "f16",
        "-o",
        tmp_path / "f16",
        *scored,
        "--json",
    )
    assert json.loads(exported.stdout)["evaluation"]["models"][1]["kl_mean"] < 1e-3


def test_a_trained_adapter_of_the_bundled_model_is_merged_exported_and_scored(
    tmp_path: Path,
) -> None:
    base = locate(None).path
    text = EvaluationText("tiny", length=128, max_tokens=2048)
    lines = "The night train to the coast leaves at nine and carries the post. " * 8
    (tmp_path / "trained.txt").write_text(lines)
    trained = EvaluationText(tmp_path / "trained.txt", length=32)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"),
    )
    ids = torch.tensor([open_tokenizer(base).encode(lines)[:96]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(8):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(tmp_path / "lora"))

    adapted = locate(base, adapters=[tmp_path / "lora"])
    scores = evaluate([base, adapted], trained)
    assert scores.comparisons[1].ratio < 0.8
    recipe = Recipe(
        "awq",
        formats=("compressed-tensors", "gguf", "onnx"),
        calibration=Calibration(samples=4, length=128),
    )
    out = quantize(adapted, tmp_path / "out", recipe)
    merged_too = merged(base, tmp_path / "lora", tmp_path / "merged")
    for folder in out.folders.values():
        ratio = evaluate([merged_too, folder], text).comparisons[1].ratio
        assert ratio < 1.15


def test_another_adapter_begins_anew(
    base: Path, adapter: Path, tmp_path: Path, text: EvaluationText
) -> None:
    arguments = (
        "awq",
        base,
        "-o",
        tmp_path / "out",
        "--calib",
        text.source,
        "--samples",
        "4",
        "--seq-len",
        "64",
        "--no-verify",
    )
    assert cli(*arguments, "--adapter", adapter).exit_code == 0
    again = cli(*arguments, "--adapter", f"{adapter}=2", "--overwrite")
    assert again.exit_code == 0, again.output
    manifest = json.loads((tmp_path / "out" / "phi3quant.json").read_text())
    assert manifest["source"]["adapters"][0]["weight"] == 2


def test_an_adapter_for_a_quantized_model_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    quantize(base, tmp_path / "out", Recipe("rtn"))
    result = cli("perplexity", tmp_path / "out", "--adapter", adapter)
    assert result.exit_code == 2
    assert "adapters can be merged only into the checkpoint" in " ".join(result.stderr.split())


def test_an_adapter_that_unties_changes_the_estimate(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    base = checkpoint_folder("tied")
    adapter = make_adapter(base, tmp_path / "lora", target_modules=["lm_head"])
    sizes = [
        json.loads(cli("estimate", base, *extra, "--json").stdout)["parameters"]
        for extra in ((), ("--adapter", adapter))
    ]
    assert sizes[1] - sizes[0] == 320 * 64
