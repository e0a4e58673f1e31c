"""ONNX folders in the gate: manifest, hashes, and what check and compare say of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from converters.onnx.options import OnnxOptions
from phi3quant.cli.main import main
from phi3quant.disk.hashed_file import sha256
from phi3quant.disk.output import MANIFEST
from phi3quant.errors import NotComparableError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.inspection import inspect
from phi3quant.gating.baselines import create_baseline
from phi3quant.gating.check import DIVERGENCE, DRIFT, Limits, check
from phi3quant.gating.comparison import compare
from phi3quant.gating.facts import STOP_TOKENS
from phi3quant.gating.gate import Verdict
from phi3quant.provenance import sealing
from phi3quant.provenance.integrity import check_hashes, has_hashes
from phi3quant.provenance.sealing import read_provenance
from phi3quant.run.export import export_onnx
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.verification import verify

SHORT = EvaluationText(max_tokens=2048)
SIXTEEN = OnnxOptions(embedding="fp16", head="fp16")
"""ONNX options with the FP16 parts of a packed folder."""
RECIPE = Recipe("rtn", formats=("onnx", "compressed-tensors"), onnx=SIXTEEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """phi3-tiny as ONNX, verified, with the same codes packed in a folder within."""
    out = tmp_path_factory.mktemp("made") / "out"
    verify(quantize("phi3-tiny", out, RECIPE), SHORT)
    return out


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    return folder / "compressed-tensors"


@pytest.fixture(scope="module")
def baseline(folder: Path) -> Path:
    """Baseline of the ONNX folder."""
    path = folder.parent / "onnx.baseline"
    create_baseline(folder, path, text=SHORT)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The ONNX folder alone, to spoil."""
    ignored = shutil.ignore_patterns("compressed-tensors")
    return Path(shutil.copytree(folder, tmp_path / "copy", ignore=ignored))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def problems(path: Path) -> dict[str, str]:
    return {check.name: check.problem for check in check_hashes(path) if check.problem}


def test_the_graph_by_itself_says_what_the_manifest_says(copy: Path) -> None:
    beside = read_provenance(copy)
    (copy / MANIFEST).unlink()
    inside = read_provenance(copy)
    assert inside == {key: value for key, value in beside.items() if key != "files"}
    assert inside["verification"]["at_accuracy_level_0"]["ratio"] > 0.9
    assert inspect(copy).manifest["recipe"]["onnx"]["head"] == "fp16"
    (stated,) = (
        entry.value
        for entry in onnx.load(copy / "model.onnx", load_external_data=False).metadata_props
        if entry.key == "phi3quant.recipe"
    )
    assert json.loads(stated)["method"] == "rtn"


def test_both_lists_of_files_are_true_and_say_the_same(folder: Path) -> None:
    listed = json.loads((folder / "files.json").read_text())
    files = read_provenance(folder)["files"]
    assert {name: entry for name, entry in files.items() if name != "files.json"} == listed
    assert not problems(folder)


def test_weights_are_hashed_while_they_are_written_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def watched(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr("phi3quant.disk.hashed_file.sha256", watched)
    made = quantize("phi3-tiny", tmp_path / "out", Recipe("rtn", formats=("onnx",)))
    verify(made, SHORT)
    assert "model.onnx" in hashed
    assert "model.onnx.data" not in hashed
    assert not problems(tmp_path / "out")


def test_an_interruption_while_sealing_leaves_the_folder_as_it_was(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sealing, "describe_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sealing.record_verifications(copy, {copy: {"text": "another"}})
    assert not problems(copy)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_bit_is_named_with_the_manifest_and_without(sealed: object, copy: Path) -> None:
    if not sealed:
        (copy / MANIFEST).unlink()
    assert not problems(copy)
    flip_last_byte(copy / "model.onnx.data")
    assert set(problems(copy)) == {"model.onnx.data"}


def test_a_folder_of_another_tool_has_nothing_to_hold_it_against(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    (copy / "files.json").unlink()
    assert not has_hashes(copy)
    with pytest.raises(NotComparableError, match="with hashes of its files"):
        check_hashes(copy)


def test_an_export_keeps_what_its_source_knew_of_itself(packed: Path, tmp_path: Path) -> None:
    export_onnx(packed, tmp_path / "out")
    found = read_provenance(tmp_path / "out")
    assert found["recipe"]["quantized_by"]["method"] == "rtn"
    assert found["recipe"]["quantized_from"]["name"] == "phi3-tiny"
    assert found["recipe"]["accuracy_level"] == 4


def test_the_artifact_of_the_baseline_has_not_drifted(folder: Path, baseline: Path) -> None:
    report = check(folder, baseline, Limits(allow_underpowered=True))
    assert report.exit_code == 0, report.findings
    gates = {gate.name: gate for gate in report.gates}
    assert gates[DRIFT].measured.ratio == 1
    assert report.metrics is not None
    assert 0.99 < report.metrics["ratio"] < 1.02


def test_rounded_activations_are_a_drift_that_the_gate_measures(
    folder: Path, packed: Path, tmp_path: Path
) -> None:
    create_baseline(packed, tmp_path / "packed.baseline", text=SHORT)
    report = check(folder, tmp_path / "packed.baseline", Limits(allow_underpowered=True))
    assert report.exit_code == 0, report.findings
    (divergence,) = (gate for gate in report.gates if gate.name == DIVERGENCE)
    assert 1e-6 < abs(divergence.measured.ratio - 1) < 1e-3
    assert any("the format is ONNX int4 sym g32" in note for note in report.notes)


def test_damaged_weights_are_not_compared_and_a_short_file_fails(
    copy: Path, baseline: Path
) -> None:
    data = copy / "model.onnx.data"
    flip_last_byte(data)
    with pytest.raises(NotComparableError, match=r"model\.onnx\.data has SHA-256"):
        check(copy, baseline)
    data.write_bytes(data.read_bytes()[:-1])
    report = check(copy, baseline)
    assert [finding.name for finding in report.findings] == ["artifact"]
    assert report.exit_code == 1


def test_the_runtimes_own_stop_tokens_are_checked(copy: Path, baseline: Path) -> None:
    settings = json.loads((copy / "genai_config.json").read_text())
    assert settings["model"]["eos_token_id"]
    settings["model"]["eos_token_id"] = [5]
    (copy / "genai_config.json").write_text(json.dumps(settings))
    for name in (MANIFEST, "files.json"):
        (copy / name).unlink()
    found = {finding.name: finding for finding in check(copy, baseline).findings}
    assert found[STOP_TOKENS].verdict is Verdict.FAIL


@pytest.mark.parametrize("turned", [False, True])
def test_a_packed_folder_beside_an_onnx_model(turned: object, folder: Path, packed: Path) -> None:
    pair = (packed, folder) if turned else (folder, packed)
    found = compare(*pair, SHORT)
    assert found.tensors == 0
    assert found.uncompared == "only a runtime reads the weights of out"
    assert set(found.changes) <= {"recipe"}
    assert found.figures is not None
    assert 0.999 < found.figures[1]["ratio"] < 1.001
    assert json.loads(json.dumps(found.as_json()))["uncompared"]


def test_two_onnx_models_are_compared_by_what_they_state_and_say(
    folder: Path, packed: Path, tmp_path: Path
) -> None:
    export_onnx(packed, tmp_path / "level0", options=replace(SIXTEEN, accuracy_level=0))
    found = compare(folder, tmp_path / "level0", SHORT)
    assert found.figures is not None
    assert 0 < found.figures[1]["kl_mean"] < 1e-3
    assert "source" in found.changes
    assert STOP_TOKENS not in found.changes


def test_commands_take_onnx_folders(
    folder: Path, packed: Path, baseline: Path, tmp_path: Path
) -> None:
    lines: tuple[tuple[object, ...], ...] = (
        ("inspect", folder),
        ("verify", folder),
        ("check", folder, "--baseline", baseline, "--allow-underpowered"),
        ("baseline", "create", folder, "-o", tmp_path / "b", "--max-tokens", 1024),
        ("compare", packed, folder, "--max-tokens", 1024),
    )
    for words in lines:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
