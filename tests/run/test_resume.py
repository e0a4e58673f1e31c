import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.disk.workspace import open_workspace
from phi3quant.errors import ResumeError
from phi3quant.run.block_record import write_record
from tests.killing import hashes
from tests.models import make_model
from tests.source.test_adapter import make_adapter

LAYERS = 4
SMALL = ("--samples", "4", "--seq-len", "64", "--no-verify", "--threads", "1")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of several blocks, with rows that K-quants fill."""
    folder = tmp_path_factory.mktemp("deep")
    make_model(folder, num_hidden_layers=LAYERS)
    return folder


@pytest.fixture
def line(deep: Path, prose: Path) -> tuple[str, ...]:
    return ("awq", str(deep), "--calib", str(prose), *SMALL)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def interrupted_after(
    blocks: int, monkeypatch: pytest.MonkeyPatch, *words: str, error: type[BaseException] | OSError
) -> Result:
    """Run a command that is interrupted after a number of blocks."""
    done = []

    def write(path: Path, *given: object) -> None:
        done.append(path)
        if len(done) > blocks:
            raise error
        write_record(path, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("phi3quant.run.journal.write_record", write)
        return invoke(*words)


@pytest.mark.parametrize(
    "output",
    [
        ("--export", "compressed-tensors,awq-gemm,gguf,onnx"),
        ("--export", "compressed-tensors", "--asym", "--group-size", "16", "--bits", "8"),
        ("--export", "mlx,gguf", "--asym"),
    ],
    ids=["all formats", "zero points", "real offsets"],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    output: tuple[str, ...], line: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", str(tmp_path), "5", *line, *output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    left = [trial["left"] for trial in found["trials"]]
    assert all(trial["files"] == found["whole"] for trial in found["trials"])
    # Else nothing was taken up at all.
    assert any(0 < blocks < LAYERS for blocks in left), left


def test_k_quants_are_taken_up_as_they_were(
    prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "wide", hidden_size=256, intermediate_size=256, num_attention_heads=8)
    words = ["awq", str(tmp_path / "wide"), "--calib", str(prose), *SMALL]
    words += ["--export", "gguf", "--gguf-type", "q4_k_m"]
    assert invoke(*words, "-o", str(tmp_path / "whole")).exit_code == 0
    again = [*words, "-o", str(tmp_path / "again")]
    interrupted_after(1, monkeypatch, *again, error=KeyboardInterrupt)
    assert "resuming after 1 finished block" in invoke(*again, "--resume").stderr
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "again")


@pytest.mark.parametrize("more", [("--tensor-type", "down_proj=int8"), ("--target-bpw", "9.2")])
def test_mixtures_are_taken_up_as_they_were(
    more: tuple[str, ...], line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*line, *more, "--export", "gptq,onnx"]
    whole = invoke(*words, "-o", str(tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    again = [*words, "-o", str(tmp_path / "again")]
    interrupted_after(2, monkeypatch, *again, error=KeyboardInterrupt)
    assert "resuming after 2 finished blocks" in invoke(*again, "--resume").stderr
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "again")
    recipe = json.loads((tmp_path / "whole" / "phi3quant.json").read_text())["recipe"]
    assert recipe["tensor_types"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt, 130, "nothing was left half-written"),
        (OSError(errno.ENOSPC, "full"), 2, "no space is left on the disk"),
    ],
    ids=["Ctrl-C", "full disk"],
)
def test_whoever_is_interrupted_is_told_how_to_go_on(
    error: type[BaseException] | OSError,
    code: int,
    message: str,
    line: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*line, "-o", str(tmp_path / "out"))
    ended = interrupted_after(2, monkeypatch, *words, error=error)
    assert ended.exit_code == code
    assert message in ended.stderr
    assert "2 finished blocks are kept" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".out.unfinished"]
    assert invoke(*words, "--resume").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_nothing_is_left_before_a_block_is_finished(
    error: type[BaseException] | OSError,
    line: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*line, "-o", str(tmp_path / "deep" / "out"))
    ended = interrupted_after(0, monkeypatch, *words, error=error)
    assert ended.exit_code in (2, 130)
    assert "--resume" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_finished_blocks_are_not_lost_by_starting_again(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*line, "-o", str(tmp_path / "out"))
    interrupted_after(2, monkeypatch, *words, error=KeyboardInterrupt)
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert re.search("unfinished .* 2 finished blocks; pass --resume", refused.stderr)
    assert len(list(tmp_path.glob(".out.unfinished/block-*"))) == 2
    anew = invoke(*words, "--overwrite")
    assert anew.exit_code == 0
    assert "going on" not in anew.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--group-size", "16"), "recipe.group_size was 32 and is 16"),
        (("--seed", "1"), "calibration.seed was 0 and is 1"),
        (("--threads", "2"), "threads was 1 and is 2"),
        (("--export", "gguf"), "recipe.formats was"),
    ],
)
def test_another_recipe_does_not_go_on_and_says_why(
    changed: tuple[str, ...],
    message: str,
    line: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*line, "-o", str(tmp_path / "out"))
    interrupted_after(1, monkeypatch, *words, error=KeyboardInterrupt)
    refused = invoke(*words, *changed, "--resume")
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert "--resume to continue" not in refused.stderr
    assert invoke(*words, "--resume").exit_code == 0


def test_another_adapter_does_not_go_on(
    prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "model")
    for name, seed in (("one", 1), ("two", 2)):
        make_adapter(tmp_path / "model", tmp_path / name, seed)
    model = ("awq", str(tmp_path / "model"), "--calib", str(prose), *SMALL)
    words = (*model, "-o", str(tmp_path / "out"), "--adapter")
    interrupted_after(1, monkeypatch, *words, str(tmp_path / "one"), error=KeyboardInterrupt)
    refused = invoke(*words, str(tmp_path / "two"), "--resume")
    assert refused.exit_code == 2
    assert f"adapters.1.name was {tmp_path / 'one'} and is {tmp_path / 'two'}" in refused.stderr
    assert invoke(*words, str(tmp_path / "one"), "--resume").exit_code == 0


def test_another_checkpoint_does_not_go_on(
    prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    make_model(model)
    words = ("awq", str(model), "--calib", str(prose), *SMALL, "-o", str(tmp_path / "out"))
    interrupted_after(1, monkeypatch, *words, error=KeyboardInterrupt)
    make_model(model, seed=1)
    refused = invoke(*words, "--resume")
    assert refused.exit_code == 2
    assert "sha256.model.safetensors was" in refused.stderr


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-7], lambda raw: raw[:-1] + b"\x55", bytes])
def test_a_damaged_block_is_quantized_again(
    spoil: Callable[[bytes], bytes],
    line: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert invoke(*line, "-o", str(tmp_path / "whole")).exit_code == 0
    words = (*line, "-o", str(tmp_path / "again"))
    interrupted_after(3, monkeypatch, *words, error=KeyboardInterrupt)
    damaged = tmp_path / ".again.unfinished" / "block-00001.safetensors"
    damaged.write_bytes(spoil(damaged.read_bytes()))
    assert invoke(*words, "--resume").exit_code == 0
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "again")


def test_a_header_that_is_no_json_is_refused(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*line, "-o", str(tmp_path / "out"))
    interrupted_after(1, monkeypatch, *words, error=KeyboardInterrupt)
    (tmp_path / ".out.unfinished" / "begun.json").write_text("{")
    refused = invoke(*words, "--resume")
    assert refused.exit_code == 2
    assert "not readable as JSON" in refused.stderr


def test_resuming_what_never_began_just_begins(line: tuple[str, ...], tmp_path: Path) -> None:
    done = invoke(*line, "-o", str(tmp_path / "out"), "--resume")
    assert done.exit_code == 0
    assert "no finished blocks" in done.stderr


def test_rtn_keeps_no_blocks_and_says_so(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("rtn", *line[1:], "-o", str(tmp_path / "out"))
    monkeypatch.setattr("phi3quant.run.journal.write_record", None)
    done = invoke(*words, "--resume")
    assert done.exit_code == 0
    assert "RTN is too quick to keep blocks" in done.stderr


def test_blocks_of_another_method_are_not_lost_by_rtn(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ("-o", str(tmp_path / "out"))
    interrupted_after(2, monkeypatch, *line, *target, error=KeyboardInterrupt)
    refused = invoke("rtn", *line[1:], *target, "--resume")
    assert refused.exit_code == 2
    assert "2 finished blocks; pass --resume to continue" in refused.stderr
    assert len(list(tmp_path.glob(".out.unfinished/block-*"))) == 2


def test_two_processes_do_not_make_the_same_output(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out", overwrite=False):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with open_workspace(tmp_path / "out", overwrite=False):
                    pass
            except ResumeError:
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_what_a_killed_process_left_goes_with_the_next_run(deep: Path, tmp_path: Path) -> None:
    words = ["rtn", str(deep), "--no-verify", "-o", str(tmp_path / "out")]
    # Killed when it waits for the disk for the first time: all is written and nothing in place.
    program = "import sys; from tests.killing import dying_at; dying_at(sys.argv[1:], 1)()"
    killed = subprocess.run([sys.executable, "-c", program, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1, left
    assert left != ["out"]
    assert invoke(*words).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_drops_finished_blocks_only_if_it_may_overwrite(
    line: tuple[str, ...], deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted_after(1, monkeypatch, *line, "-o", str(out), error=KeyboardInterrupt)
    unfinished = tmp_path / ".out.unfinished"
    blocks = [path.name for path in unfinished.glob("block-*")]
    assert blocks
    words = ("export", "gguf", str(deep), "-o", str(out), "--no-verify")
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "has an unfinished run; finish it with --resume, or drop it with --overwrite" in (
        " ".join(refused.stderr.split())
    )
    assert [path.name for path in unfinished.glob("block-*")] == blocks
    assert invoke(*words, "--overwrite").exit_code == 0
    assert list(out.glob("*.gguf"))
    assert not unfinished.exists()
