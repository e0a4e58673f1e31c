"""Runs with --tune, and phi3quant tune: formats, manifests, refusals, resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from converters import LAYOUTS, open_weights
from converters.gguf.reader import GgufCheckpoint
from converters.packed.reader import PackedCheckpoint
from phi3quant.cli.main import main
from phi3quant.evaluation.inspection import inspect
from phi3quant.model.architecture import LINEARS
from phi3quant.tuning import resume_point
from phi3quant.tuning.resume_point import ResumePoint
from tests.killing import hashes
from tests.models import make_model

SMALL = ("--samples", "6", "--seq-len", "32", "--threads", "1", "--no-verify", "-q")
LITTLE = ("--tune-windows", "16", "--tune-passes", "4")


def _invoke(*words: str | Path | float) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def _run(*words: str | Path | float) -> Result:
    result = _invoke(*words)
    assert result.exit_code == 0, result.output + result.stderr
    return result


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "phi3quant.json").read_text(encoding="utf-8"))
    return manifest


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-back windows on which every change is a gain."""
    monkeypatch.setattr("phi3quant.tuning.tune.mean_divergence", _falling())


def _falling() -> Callable[..., float]:
    scores = iter(range(10_000, 0, -1))
    return lambda *_arguments: float(next(scores))


@pytest.mark.usefixtures("kept")
def test_all_formats_of_a_tuned_run_hold_the_same_weights(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, out = checkpoint_folder("gqa"), tmp_path / "out"
    words = ("awq", model, "--calib", prose, *SMALL)
    _run(*words, "-o", tmp_path / "plain")
    formats = "compressed-tensors,gguf,onnx,gptq"
    _run(*words, "--tune", *LITTLE, "--export", formats, "-o", out)
    before, after = open_weights(tmp_path / "plain"), open_weights(out)
    assert isinstance(before, PackedCheckpoint)
    assert isinstance(after, PackedCheckpoint)
    for index in range(before.config.num_hidden_layers):
        for key in LINEARS:
            one, other = before.quantized(index, key), after.quantized(index, key)
            assert torch.equal(one.codes, other.codes)
            assert not torch.equal(one.scales, other.scales)
    for name in ("gguf", "gptq"):
        same = open_weights(out / name)
        for index in range(after.config.num_hidden_layers):
            for key, tensor in after.block(index).items():
                assert torch.equal(same.block(index)[key], tensor), (name, key)
    manifest = _manifest(out)
    assert manifest["recipe"]["tuning"]["windows"] == 16
    assert manifest["tuning"]["strength"] > 0
    assert set(manifest["tuning"]["kl_before"]) == {str(prose), "tiny/calibration"}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_folder_is_tuned_in_its_layout(
    layout: str, checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, quantized, out = checkpoint_folder("gqa"), tmp_path / "quantized", tmp_path / "out"
    _run("rtn", model, "--asym", "--export", layout, *SMALL, "-o", quantized)
    _run(*_tune(quantized, model, prose), "-o", out)
    before, after = open_weights(quantized), open_weights(out)
    assert isinstance(after, PackedCheckpoint)
    assert after.layout.name == layout
    assert _size(out) == _size(quantized)
    assert not torch.equal(before.block(0)["qkv_proj"], after.block(0)["qkv_proj"])
    assert torch.equal(before.head(), after.head())
    assert _manifest(out)["recipe"]["method"] == "tune"
    assert _manifest(out)["recipe"]["quantized_by"]["method"] == "rtn"


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("kind", ["q4_k_m", "q3_k_m", "iq4_xs", "q5_1", "q4_0"])
def test_a_gguf_file_is_tuned_in_its_types(kind: str, prose: Path, tmp_path: Path) -> None:
    model, quantized, out = tmp_path / "model", tmp_path / "quantized", tmp_path / "out"
    make_model(model, hidden_size=256, intermediate_size=512, num_key_value_heads=4)
    _run("rtn", model, "--export", "gguf", "--gguf-type", kind, *SMALL, "-o", quantized)
    _run(*_tune(quantized, model, prose), "-o", out)
    before, after = open_weights(quantized), open_weights(out)
    assert isinstance(before, GgufCheckpoint)
    assert isinstance(after, GgufCheckpoint)
    assert before.format == after.format
    assert _types(before) == _types(after)
    assert torch.equal(before.embedding(), after.embedding())
    assert torch.equal(before.head(), after.head())
    assert not torch.equal(before.block(0)["down_proj"], after.block(0)["down_proj"])


@pytest.mark.usefixtures("kept")
def test_a_profile_is_tuned_in_its_types(tmp_path: Path) -> None:
    words = ("awq", "phi3-tiny", *SMALL, "--profile", "adreno")
    _run(*words, "-o", tmp_path / "plain")
    _run(*words, "--tune", *LITTLE, "-o", tmp_path / "out")
    before, after = open_weights(tmp_path / "plain"), open_weights(tmp_path / "out")
    assert isinstance(before, GgufCheckpoint)
    assert isinstance(after, GgufCheckpoint)
    assert _types(before) == _types(after)
    assert set(_types(after).values()) <= {"Q4_0", "Q8_0", "F16", "F32"}
    assert not torch.equal(before.block(0)["down_proj"], after.block(0)["down_proj"])
    recipe = _manifest(tmp_path / "out")["recipe"]
    assert (recipe["profile"], recipe["tuning"]["windows"]) == ("adreno", 16)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("kind", "target"), [("gguf", 5.2), ("mlx", 6.5), ("mlx", 5.8)])
def test_a_target_size_is_kept_by_tuning(kind: str, target: float, tmp_path: Path) -> None:
    words = ("gptq", "phi3-tiny", *SMALL, "--export", kind, "--target-bpw", target)
    _run(*words, "-o", tmp_path / "plain")
    _run(*words, "--tune", *LITTLE, "-o", tmp_path / "out")
    before, after = (open_weights(tmp_path / name) for name in ("plain", "out"))
    assert inspect(tmp_path / "out").bits_per_weight <= target
    one, other = (_manifest(tmp_path / name)["recipe"] for name in ("plain", "out"))
    assert other["tuning"]["windows"] == 16
    assert one["tensor_types"] == other["tensor_types"]
    assert before.format == after.format
    changed = [not torch.equal(before.block(0)[key], after.block(0)[key]) for key in LINEARS]
    assert all(changed)


def test_an_interrupted_tuning_resumes_to_the_same_bytes(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = checkpoint_folder("tied")
    quantized = tmp_path / "quantized"
    _run("rtn", model, *SMALL, "-o", quantized)
    monkeypatch.setattr(resume_point, "_EVERY_SECONDS", 0.0)
    keep = ResumePoint.keep

    def interrupted(self: ResumePoint, done: int, *rest: object) -> None:
        keep(self, done, *rest)  # type: ignore[arg-type]
        if done == 2:
            raise KeyboardInterrupt

    for command in (
        ("awq", model, "--calib", prose, "--tune", *LITTLE, *SMALL),
        _tune(quantized, model, prose),
    ):
        words = (*command, "--tune-passes", "4")
        _run(*words, "-o", tmp_path / "whole")
        monkeypatch.setattr(ResumePoint, "keep", interrupted)
        ended = _invoke(*words, "-o", tmp_path / "out")
        monkeypatch.setattr(ResumePoint, "keep", keep)
        assert ended.exit_code == 130
        assert "a part of the tuning" in ended.stderr
        refused = _invoke(*words, "-o", tmp_path / "out")
        assert refused.exit_code == 2
        assert "pass --resume to continue" in refused.stderr
        other = _invoke(*words, "--resume", "--tune-passes", "3", "-o", tmp_path / "out")
        assert other.exit_code == 2
        assert "passes was 4 and is 3" in other.stderr
        _run(*words, "--resume", "-o", tmp_path / "out")
        assert _weights(tmp_path / "out") == _weights(tmp_path / "whole")
        for name in ("out", "whole"):
            shutil.rmtree(tmp_path / name)


def test_a_damaged_state_of_tuning_is_named(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, quantized = checkpoint_folder("gqa"), tmp_path / "quantized"
    _run("rtn", model, *SMALL, "-o", quantized)
    monkeypatch.setattr(resume_point, "_EVERY_SECONDS", 0.0)

    def damaged(self: ResumePoint, *_rest: object) -> None:
        self.path.write_bytes(b"not a file of tensors")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumePoint, "keep", damaged)
        _invoke(*_tune(quantized, model, prose), "-o", tmp_path / "out")
    ended = _invoke(*_tune(quantized, model, prose), "--resume", "-o", tmp_path / "out")
    assert ended.exit_code == 2
    assert "tuning.safetensors is damaged" in ended.stderr
    _run(*_tune(quantized, model, prose), "--overwrite", "-o", tmp_path / "out")


def test_refusals(checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path) -> None:
    model, out = checkpoint_folder("gqa"), tmp_path / "out"
    onnx, plain = tmp_path / "onnx", tmp_path / "plain"
    _run("rtn", model, *SMALL, "-o", plain)
    _run("rtn", model, "--export", "onnx", *SMALL, "-o", onnx)
    for words, message in (
        (("rtn", model, "--tune", *SMALL), "choose awq or gptq to tune"),
        (("awq", model, "--tune-windows", "3", *SMALL), "require --tune"),
        (_tune(model, model, prose), "is not quantized"),
        (_tune(onnx, model, prose), "export it again"),
        (_tune(onnx, tmp_path / "nowhere", prose), "nowhere"),
        ((*_tune(plain, model, prose), "--max-memory", "9MB"), "tuning needs about"),
    ):
        result = _invoke(*words, "-o", out)
        assert result.exit_code == 2, words
        assert message in result.stderr
        assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_another_model_is_no_reference(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    quantized, other = tmp_path / "quantized", tmp_path / "other"
    _run("rtn", checkpoint_folder("gqa"), *SMALL, "-o", quantized)
    make_model(other, hidden_size=128)
    result = _invoke(*_tune(quantized, other, prose), "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "hidden_size" in result.stderr


def test_json_has_the_divergences(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, quantized = checkpoint_folder("gqa"), tmp_path / "quantized"
    _run("rtn", model, *SMALL, "-o", quantized)
    result = _run(*_tune(quantized, model, prose), "--json", "-o", tmp_path / "out")
    tuning = json.loads(result.stdout)["tuning"]
    assert set(tuning["kl_before"]) == set(tuning["kl_after"])
    assert all(tuning["kl_after"][name] <= before for name, before in tuning["kl_before"].items())


def _tune(quantized: Path, model: Path, text: Path) -> tuple[str | Path, ...]:
    small = ("--seq-len", "32", "--threads", "1", "--no-verify", "-q")
    return ("tune", quantized, "--reference", model, "--calib", text, *LITTLE, *small)


@pytest.fixture(autouse=True)
def short_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundled text that is short, since small vocabularies make many tokens of the other."""
    monkeypatch.setattr("phi3quant.run.tuning_windows.suitable", lambda _tokenizer: "tiny")


def _types(model: GgufCheckpoint) -> dict[str, str]:
    return {name: stored.type.name for name, stored in model.model.tensors.items()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _weights(folder: Path) -> dict[str, str]:
    return {name: each for name, each in hashes(folder).items() if name.endswith(".safetensors")}
