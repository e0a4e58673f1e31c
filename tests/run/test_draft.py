import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.disk.output import MANIFEST
from phi3quant.errors import CheckpointError
from phi3quant.evaluation.evaluate import EvaluationText, evaluate_opened
from phi3quant.provenance import manifest
from phi3quant.provenance.integrity import check_hashes
from phi3quant.run.block_record import write_record
from phi3quant.run.calibration import Calibration
from phi3quant.run.draft import Draft
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.verification import Verification, verify
from phi3quant.source.bundled import bundled_folder

SHORT = EvaluationText(length=64, max_tokens=128)
SCORED = ("--window", "64", "--max-tokens", "128")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def intact(folder: Path) -> bool:
    return not any(check.problem for check in check_hashes(folder))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be changed."""
    return Path(shutil.copytree(bundled_folder(), tmp_path / "model"))


def test_an_output_has_its_verification_from_the_first_moment_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    real = evaluate_opened

    def watched(*given: object) -> object:
        seen.append(out.exists())
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("phi3quant.run.verification.evaluate_opened", watched)
    assert run("rtn", "-o", out, "--export", "gguf,onnx", *SCORED).exit_code == 0
    assert seen == [False]
    for folder in (out, out / "onnx"):
        stated = json.loads((folder / MANIFEST).read_text())
        assert stated["verification"]["artifact"]["tokens"] == 126
    assert intact(out)


def test_what_cannot_be_read_back_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_judge: Verification, draft: Draft) -> None:
        raise CheckpointError(f"{draft.folders['compressed-tensors']}/model.safetensors is broken")

    monkeypatch.setattr(Verification, "__call__", broken)
    ended = run("rtn", "-o", tmp_path / "out", *SCORED)
    assert ended.exit_code == 2
    # By the name that people know.
    assert f"{tmp_path}/out/model.safetensors is broken" in ended.stderr.replace("\n", "")
    assert not list(tmp_path.iterdir())


def test_a_text_that_can_not_be_used_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3quant.run.pipeline.quantize_blocks", None)
    ended = run("rtn", "-o", tmp_path / "out", "--text", tmp_path / "none.txt")
    assert ended.exit_code == 2
    assert "there is no text" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_source_that_changes_meanwhile_is_noticed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = manifest.describe

    def late(*given: object) -> object:
        (model / "generation_config.json").write_text("{}")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest, "describe", late)
    with pytest.raises(CheckpointError, match=r"generation_config\.json changed while it was read"):
        quantize(model, tmp_path / "out", Recipe("rtn"))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_only_numbered_anew_has_not_changed(model: Path) -> None:
    before = manifest.stamps([model / "config.json"])
    shutil.copy2(model / "config.json", model / "copy")
    (model / "copy").replace(model / "config.json")
    manifest.check_unchanged(before)


@pytest.mark.parametrize("name", ["LICENSE", "merges.txt", "chat_template.jinja"])
@pytest.mark.parametrize("command", [("rtn",), ("export", "gguf")])
def test_links_out_of_the_model_are_not_published(
    name: str, command: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a key")
    (model / name).symlink_to(tmp_path / "secret")
    ended = run(*command, model, "-o", tmp_path / "out", "--no-verify")
    assert ended.exit_code == 2
    assert "is a link to secret outside of the model's folder" in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are always UTF-8 there")
def test_a_licence_whose_name_is_not_utf8_is_refused(model: Path, tmp_path: Path) -> None:
    (model / os.fsdecode(b"LICENSE\xff")).write_text("MIT")
    ended = run("rtn", model, "-o", tmp_path / "out", "--no-verify")
    assert ended.exit_code == 2
    assert "is not UTF-8; rename the file" in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_links_within_models_and_the_hubs_cache_are_fine(model: Path, tmp_path: Path) -> None:
    (model / "LICENSE.txt").write_text("MIT")
    (model / "LICENSE").symlink_to("LICENSE.txt")
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    # As huggingface_hub before 0.23 downloads to a folder of one's choice.
    local = tmp_path / "local"
    local.mkdir()
    for file in snapshot.iterdir():
        (local / file.name).symlink_to(file.resolve())
    variant = tmp_path / "variant"
    variant.mkdir()
    for file in model.iterdir():
        (variant / file.name).symlink_to(file)
    (variant / "LICENSE").unlink()
    (variant / "LICENSE").write_text("MIT")
    for number, folder in enumerate((model, snapshot, local, variant)):
        out = tmp_path / f"out{number}"
        assert run("rtn", folder, "-o", out, "--no-verify").exit_code == 0
        assert (out / "LICENSE").read_text() == "MIT"


def test_an_artifact_that_exists_is_verified_as_a_whole(tmp_path: Path) -> None:
    recipe = Recipe("rtn", formats=("compressed-tensors", "gguf", "onnx"))
    made = quantize("phi3-tiny", tmp_path / "out", recipe)
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    before = weights.stat().st_ino
    verify(made, SHORT)
    assert intact(tmp_path / "out")
    assert weights.stat().st_ino == before
    for folder in made.folders.values():
        stated = json.loads((folder / MANIFEST).read_text())
        assert stated["verification"]["text"]["windows"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_verifying_interrupted_leaves_the_artifact_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantize("phi3-tiny", tmp_path / "out", Recipe("rtn", formats=("gguf",)))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phi3quant.provenance.sealing.describe_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(made, SHORT)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_run_killed_in_its_verification_is_taken_up_without_calibrating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("awq", "-o", tmp_path / "out", "--samples", "4", "--seq-len", "64", *SCORED)

    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Verification, "__call__", interrupted)
        ended = run(*words)
    assert ended.exit_code == 130
    assert "4 finished blocks are kept" in ended.stderr
    advance: Callable[..., None] | None = None
    monkeypatch.setattr("phi3quant.run.one_block.advance_through", advance)
    again = run(*words, "--resume")
    assert again.exit_code == 0, again.output
    assert intact(tmp_path / "out")


def test_a_read_error_keeps_finished_blocks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path] = []

    def fail(path: Path, *given: object) -> None:
        if done:
            raise CheckpointError("can't read tensor x")
        done.append(path)
        write_record(path, *given)  # type: ignore[arg-type]

    monkeypatch.setattr("phi3quant.run.journal.write_record", fail)
    recipe = Recipe("awq", calibration=Calibration(samples=4, length=64))
    with pytest.raises(CheckpointError) as caught:
        quantize(model, tmp_path / "out", recipe)
    assert "1 finished block is kept" in caught.value.__notes__[0]
    assert (tmp_path / ".out.unfinished" / "block-00000.safetensors").exists()
