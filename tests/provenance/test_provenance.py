"""Manifests next to artifacts and inside them, and the check of their hashes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from converters.gguf import embedded_manifest as gguf_embedded_manifest
from converters.gguf.file import read_gguf
from converters.gguf.reader import open_gguf
from converters.gguf.type_policy import file_type
from phi3quant.disk.output import MANIFEST
from phi3quant.errors import NotComparableError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.inspection import inspect
from phi3quant.provenance import sealing
from phi3quant.provenance.integrity import check_hashes, check_source, has_hashes
from phi3quant.provenance.manifest import flat, unflat
from phi3quant.provenance.sealing import read_provenance
from phi3quant.run.calibration import Calibration
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.verification import verify
from phi3quant.source.locate import bundled_folder
from tests.faults import flip_bit, scale_name

AWQ = Recipe("awq", formats=("gguf",), calibration=Calibration(samples=4, length=128))
SHORT = EvaluationText(max_tokens=1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """phi3-tiny as GGUF, quantized with AWQ and verified."""
    out = tmp_path_factory.mktemp("made") / "out"
    verify(quantize("phi3-tiny", out, AWQ), SHORT)
    return out


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """phi3-tiny in both packed layouts."""
    formats = ("compressed-tensors", "awq-gemm")
    quantize("phi3-tiny", tmp_path / "packed", Recipe("rtn", formats=formats))
    return tmp_path / "packed"


def problems(path: Path) -> dict[str, str]:
    return {check.name: check.problem for check in check_hashes(path) if check.problem}


def gguf(folder: Path) -> Path:
    (file,) = folder.glob("*.gguf")
    return file


def test_a_moved_file_has_the_manifest_of_its_folder(folder: Path, tmp_path: Path) -> None:
    outside = json.loads((folder / MANIFEST).read_text())
    moved = shutil.copyfile(gguf(folder), tmp_path / "moved.gguf")
    inside = read_provenance(moved)
    for key in ("schema", "format", "source", "recipe", "calibration", "tools", "blocks"):
        assert inside[key] == outside[key], key
    assert inside["verification"] == outside["verification"]
    assert inside["verification"]["artifact"]["ratio"] > 0.9
    assert inspect(moved).manifest["recipe"]["method"] == "awq"


def test_the_gguf_library_reads_every_key(folder: Path) -> None:
    fields = GGUFReader(gguf(folder)).fields
    assert json.loads(fields["phi3quant.recipe"].contents())["method"] == "awq"
    assert fields["general.architecture"].contents() == "phi3"
    assert len(fields["phi3quant.tensors_sha256"].contents()) == 64


def test_all_hashes_match_until_a_byte_changes(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert not problems(copy)
    assert not problems(gguf(copy))
    file = gguf(copy)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert "SHA-256" in problems(copy)[file.name]
    assert "metadata has" in problems(file)[f"{file.name} (tensors)"]


def test_subfolders_are_compared_with_their_own_manifests(packed: Path) -> None:
    assert not problems(packed)
    inner = packed / "awq-gemm"
    (inner / "tokenizer.json").unlink()
    (packed / "config.json").write_text("{}")
    flip_bit(inner / "model.safetensors", "model.norm.weight")
    by_file = problems(packed)
    assert by_file["awq-gemm/tokenizer.json"] == "is missing"
    assert "has 2 bytes" in by_file["config.json"]
    assert set(by_file) == {"awq-gemm/tokenizer.json", "awq-gemm/model.safetensors", "config.json"}


def test_one_flipped_bit_of_a_scale_is_detected(packed: Path) -> None:
    flip_bit(packed / "model.safetensors", scale_name(packed))
    assert set(problems(packed)) == {"model.safetensors"}


@pytest.mark.parametrize(
    "files",
    [None, [], {"../x": {"sha256": "0"}}, {"/etc/x": {"sha256": "0"}}, {"config.json": "0"}],
)
def test_a_manifest_with_malformed_hashes_is_refused(files: object, packed: Path) -> None:
    shutil.rmtree(packed / "awq-gemm")
    manifest = json.loads((packed / MANIFEST).read_text())
    (packed / MANIFEST).write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(NotComparableError):
        check_hashes(packed)


def test_a_folder_without_hashes_is_refused() -> None:
    assert not has_hashes(bundled_folder())
    with pytest.raises(NotComparableError, match="with hashes of its files"):
        check_hashes(bundled_folder())


def test_a_source_is_compared_with_the_manifest(packed: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(bundled_folder(), tmp_path / "source"))
    manifest = read_provenance(packed)
    assert not any(check.problem for check in check_source(manifest, source))
    flip_bit(source / "model.safetensors", "model.norm.weight")
    changed = [check.name for check in check_source(manifest, source) if check.problem]
    assert changed == ["model.safetensors"]
    with pytest.raises(NotComparableError, match="has no hashes of a source"):
        check_source({}, source)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the artifact that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_tensors_stay_where_they_are_while_the_manifest_changes(copy: Path) -> None:
    folder = copy
    before = read_gguf(gguf(folder))
    gguf_embedded_manifest.fill(before, {"phi3quant.recipe": "x" * 100})
    changed = read_gguf(gguf(folder))
    assert changed.fields["phi3quant.recipe"] == "x" * 100
    assert before.tensors == changed.tensors
    assert not [check for check in check_hashes(gguf(folder)) if check.problem]


def test_a_manifest_that_does_not_fit_is_embedded_without_its_blocks(copy: Path) -> None:
    folder = copy
    model = read_gguf(gguf(folder))
    strings = {"phi3quant.blocks": "x" * 10**6, "phi3quant.recipe": "y"}
    gguf_embedded_manifest.fill(model, strings)
    fields = read_gguf(gguf(folder)).fields
    assert fields["phi3quant.recipe"] == "y"
    assert "phi3quant.blocks" not in fields


def test_an_interruption_while_sealing_leaves_the_artifact_unchanged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sealing, "describe_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sealing.record_verifications(folder, {folder: {"text": "another"}})
    assert not problems(folder)
    assert read_provenance(gguf(folder))["verification"]["text"] != "another"


def test_parts_of_a_split_file_are_hashed_together(tmp_path: Path) -> None:
    artifact = export_gguf(
        "phi3-tiny", tmp_path / "out", kind=file_type("q8_0"), split_bytes=1_500_000
    )
    parts = sorted(artifact.folders["gguf"].glob("*.gguf"))
    assert len(parts) > 1
    assert not problems(parts[0])
    assert set(json.loads((tmp_path / "out" / MANIFEST).read_text())["files"]) == {
        part.name for part in parts
    }
    content = bytearray(parts[-1].read_bytes())
    content[-5] ^= 8
    parts[-1].write_bytes(bytes(content))
    assert problems(parts[0])


def test_an_export_keeps_the_manifest_of_its_source(tmp_path: Path) -> None:
    recipe = replace(AWQ, formats=("compressed-tensors",))
    quantize("phi3-tiny", tmp_path / "packed", recipe)
    export_gguf(tmp_path / "packed", tmp_path / "out")
    manifest = read_provenance(gguf(tmp_path / "out"))
    assert manifest["recipe"]["quantized_by"]["method"] == "awq"
    assert manifest["recipe"]["quantized_from"]["name"] == "phi3-tiny"
    assert manifest["calibration"]["tokens_sha256"]
    assert manifest["blocks"][0]["linears"]


def test_a_manifest_can_be_restored_from_flat_strings() -> None:
    manifest = {"schema": 1, "format": "gguf", "recipe": {"bits": 4, "é": None}, "files": {}}
    strings = flat(manifest)
    assert all(isinstance(value, str) for value in strings.values())
    assert unflat({**strings, "general.name": "x"}) == {
        key: value for key, value in manifest.items() if key != "files"
    }
    assert unflat({"phi3quant.recipe": "[" * 100_000})["recipe"].startswith("[[")


def test_a_foreign_file_without_hashes_is_refused(folder: Path, tmp_path: Path) -> None:
    file = shutil.copyfile(gguf(folder), tmp_path / "foreign.gguf")
    content = file.read_bytes().replace(b"phi3quant.", b"somebodys.")
    file.write_bytes(content)
    assert read_provenance(file) == {}
    assert not has_hashes(file)
    with pytest.raises(NotComparableError, match="has no hash of its tensors"):
        check_hashes(file)
    assert torch.equal(open_gguf(file).final_norm(), open_gguf(gguf(folder)).final_norm())
