"""Calibration and tuning on several texts, and on text that the model writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from calib import windows
from calib.corpus import load_corpus, render
from phi3quant.cli.main import main
from phi3quant.errors import CorpusError
from phi3quant.run import written_windows
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import calibration_windows
from phi3quant.run.imatrix import write_imatrix
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.tuning_windows import tuning_windows
from phi3quant.run.written_windows import Writing, kept_or_written
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import PROSE, make_model

LENGTH = 16
CPU = Writing()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no windows from another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written_windows._LATEST.clear()
    yield tmp_path / "cache" / "phi3quant" / "written"
    written_windows._LATEST.clear()


@pytest.fixture
def source(tmp_path: Path) -> OpenedModel[Checkpoint]:
    make_model(tmp_path / "model")
    return SharedWork().opened(locate(tmp_path / "model"))


def text(path: Path, content: str = PROSE) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.fixture
def first(tmp_path: Path) -> str:
    return text(tmp_path / "first.txt")


@pytest.fixture
def second(tmp_path: Path) -> str:
    return text(tmp_path / "second.txt", PROSE.upper()[:1500])


def test_one_text_gives_the_windows_of_before(source: OpenedModel[Checkpoint], first: str) -> None:
    corpus = load_corpus(first, "calibration")
    stream = source.tokenizer.encode_long(render(corpus, source.tokenizer))
    cut = windows.cut_windows(stream, LENGTH, first)
    expected = windows.shuffled_by_content(windows.sample_windows(cut, 8, 3))
    for entry in (first, (first,), [f"{first}=5"], Path(first)):
        calibration = Calibration(entry, samples=8, length=LENGTH, seed=3)  # type: ignore[arg-type]
        result = calibration_windows(source, calibration)
        assert torch.equal(result.ids, expected)
        assert result.description == {
            "text": first,
            "text_sha256": corpus.digest,
            "windows": 8,
            "window_tokens": LENGTH,
            "seed": 3,
            "tokens_sha256": windows.digest(expected),
        }


def test_a_tuple_of_one_text_is_that_text() -> None:
    assert Calibration(("general",)) == Calibration("general")
    assert Calibration(()) == Calibration()
    mixture = Calibration(["general", "chats.jsonl=2"])  # type: ignore[arg-type]
    assert hash(mixture) == hash(Calibration(("general", "chats.jsonl=2")))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("general=0",), "is not a share of general"),
        (("general", "tiny=-1"), "is not a share of tiny"),
        (("general", "general=2"), "is listed twice"),
        (("general", "self:0"), "is not a number of windows"),
        (("general", 3), "source is 3, of type int"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(entries: tuple[str, ...], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Calibration(entries)


def test_windows_are_in_proportion_to_shares(
    source: OpenedModel[Checkpoint], first: str, second: str
) -> None:
    calibration = Calibration((first, f"{second}=3"), samples=12, length=LENGTH)
    result = calibration_windows(source, calibration)
    assert torch.equal(calibration_windows(source, calibration).ids, result.ids)
    every = {each: set(map(windows.digest, _all(source, each))) for each in (first, second)}
    counts = {each: sum(windows.digest(w) in every[each] for w in result.ids) for each in every}
    assert counts == {first: 3, second: 9}
    assert result.description["windows"] == 12
    assert "text" not in result.description
    assert result.description["texts"] == [
        {
            "text": each,
            "text_sha256": load_corpus(each, "calibration").digest,
            "share": share,
            "windows": counts[each],
        }
        for each, share in ((first, 1.0), (second, 3.0))
    ]


def _all(source: OpenedModel[Checkpoint], path: str) -> torch.Tensor:
    return calibration_windows(source, Calibration(path, samples=10_000, length=LENGTH)).ids


def test_two_names_of_one_text_are_refused(
    source: OpenedModel[Checkpoint], first: str, tmp_path: Path
) -> None:
    copy = text(tmp_path / "copy.txt")
    with pytest.raises(CorpusError, match="are the same text; list it once"):
        calibration_windows(source, Calibration((first, copy), length=LENGTH))


def test_a_share_below_one_window_is_a_notice(
    source: OpenedModel[Checkpoint], first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    calibration = Calibration((first, f"{second}=0.001"), samples=4, length=LENGTH)
    result = calibration_windows(source, calibration)
    assert [each["windows"] for each in result.description["texts"]] == [4, 0]
    assert f"{second}: none of its windows is used" in caplog.text


def test_a_field_is_of_the_users_records(source: OpenedModel[Checkpoint], tmp_path: Path) -> None:
    records = text(tmp_path / "a.jsonl", json.dumps({"body": PROSE}))
    calibration = Calibration(("tiny", records), "body", samples=4, length=LENGTH)
    names = [each["text"] for each in calibration_windows(source, calibration).description["texts"]]
    assert names == ["tiny/calibration", records]


def test_written_text_is_described_by_its_tokens(source: OpenedModel[Checkpoint]) -> None:
    result = calibration_windows(source, Calibration("self:6", samples=4, length=LENGTH, seed=2))
    ids = kept_or_written(source, (4, LENGTH), 2, CPU)
    assert result.ids.shape == (4, LENGTH)
    assert {windows.digest(each) for each in result.ids} == {windows.digest(each) for each in ids}
    assert result.description == {
        "text": "self",
        "text_sha256": windows.digest(ids),
        "written_windows": 4,
        "temperature": 1.0,
        "windows": 4,
        "window_tokens": LENGTH,
        "seed": 2,
        "tokens_sha256": windows.digest(result.ids),
    }


def test_written_text_is_read_again(
    source: OpenedModel[Checkpoint], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = kept_or_written(source, (4, LENGTH), 0, CPU)
    (file,) = cache.iterdir()
    monkeypatch.setattr(written_windows, "written_windows", None)
    assert torch.equal(kept_or_written(source, (4, LENGTH), 0, CPU), ids)
    written_windows._LATEST.clear()
    assert torch.equal(kept_or_written(source, (4, LENGTH), 0, CPU), ids)
    assert file.stat().st_size < 4 * ids.numel() + 4096


@pytest.mark.parametrize("content", [b"", b"x" * 300, None])
def test_a_damaged_cache_is_written_again(
    content: bytes | None,
    source: OpenedModel[Checkpoint],
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = kept_or_written(source, (4, LENGTH), 0, CPU)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    # Without content: a token that has changed.
    file.write_bytes(whole[:-4] + b"\x07\0\0\0" if content is None else content)
    written_windows._LATEST.clear()
    assert torch.equal(kept_or_written(source, (4, LENGTH), 0, CPU), ids)
    assert "the model writes its text again" in caplog.text
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_a_notice(
    source: OpenedModel[Checkpoint], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    ids = kept_or_written(source, (4, LENGTH), 0, CPU)
    assert ids.shape == (4, LENGTH)
    assert "can't be kept for later runs" in caplog.text


def test_another_model_writes_another_text(tmp_path: Path, cache: Path) -> None:
    for seed in (0, 1):
        make_model(tmp_path / "model", seed=seed)
        kept_or_written(SharedWork().opened(locate(tmp_path / "model")), (4, LENGTH), 0, CPU)
    assert len(list(cache.iterdir())) == 2


def test_old_files_of_the_cache_are_removed(
    source: OpenedModel[Checkpoint], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3quant.run.kept_windows._MOST_FILES", 2)
    for seed in range(4):
        kept_or_written(source, (1, LENGTH), seed, CPU)
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_written_text_is_for_tuning_where_there_is_other_text(
    source: OpenedModel[Checkpoint], first: str
) -> None:
    calibration = Calibration((first, "self:8"), samples=4, length=LENGTH)
    plain = calibration_windows(source, Calibration(first, samples=4, length=LENGTH))
    tuned = calibration_windows(source, calibration, tuned=12)
    assert tuned.description == plain.description
    mixed = calibration_windows(source, calibration)
    assert [each["windows"] for each in mixed.description["texts"]] == [2, 2]
    alone = Calibration("self:8", samples=4, length=LENGTH)
    assert calibration_windows(source, alone, tuned=12).description["text"] == "self"


def test_tuning_uses_all_texts_and_holds_back_windows_of_each(
    source: OpenedModel[Checkpoint], first: str
) -> None:
    calibration = Calibration((first, "self:16"), samples=4, length=LENGTH)
    calibrated = calibration_windows(source, calibration, tuned=12)
    result = tuning_windows(source, calibration, calibrated, 12, CPU)
    held_back = result.windows.held_back
    assert list(held_back) == [first, "self", "general/calibration"]
    assert {name: len(each) for name, each in held_back.items()}["self"] == 1
    assert len(result.windows.train) == 12
    assert [each["windows"] for each in result.description["texts"]] == [6, 6]
    judged = {windows.digest(each) for ids in held_back.values() for each in ids}
    assert not judged & {windows.digest(each) for each in result.windows.train}
    assert not judged & {windows.digest(each) for each in calibrated.ids}
    everything = tuning_windows(source, calibration, calibrated, 10_000, CPU)
    total = len(_all(source, first)) + 16
    assert len(everything.windows.train) == total - len(held_back[first]) - 2


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of windows that a model has been asked to write."""
    numbers = []

    def fake(_source: object, shape: tuple[int, int], seed: int, _writing: Writing) -> torch.Tensor:
        numbers.append(shape[0])
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, 200, shape, generator=generator)

    monkeypatch.setattr("phi3quant.run.calibration_windows.kept_or_written", fake)
    return numbers


def test_no_more_windows_are_written_than_codes_are_calibrated_on(
    source: OpenedModel[Checkpoint], first: str, written: list[int]
) -> None:
    for entries, samples, expected in (
        ("self:512", 20, 20),
        ("self:8", 20, 8),
        ((first, "self:512"), 6, 3),
        ((first, "self:512=5"), 6, 5),
        # A text without further windows leaves its share to the other.
        ((first, "self:512"), 400, 400 - len(_all(source, first))),
        ((first, "self:512=0.001"), 6, 1),
    ):
        calibration_windows(source, Calibration(entries, samples=samples, length=LENGTH))
        assert written.pop() == expected
        assert not written


@pytest.mark.parametrize(
    ("number", "samples", "limit", "expected"),
    [(512, 4, 100, 108), (40, 4, 100, 40), (512, 60, 20, 68), (512, 4, 10, 11)],
)
def test_a_text_alone_is_written_once_to_calibrate_and_to_tune_on(
    number: int,
    samples: int,
    limit: int,
    expected: int,
    source: OpenedModel[Checkpoint],
    written: list[int],
) -> None:
    calibration = Calibration(f"self:{number}", samples=samples, length=LENGTH)
    calibrated = calibration_windows(source, calibration, tuned=limit)
    result = tuning_windows(source, calibration, calibrated, limit, CPU)
    assert written == [expected, expected]
    judging = result.windows.held_back["self"]
    assert len(result.windows.train) == min(limit, expected - len(judging))
    judged = {windows.digest(each) for each in judging}
    assert not judged & {windows.digest(each) for each in calibrated.ids}


@pytest.mark.parametrize(("limit", "expected"), [(12, 7), (80, 45), (10_000, 64)])
def test_no_more_windows_are_written_than_a_run_tunes_on(
    limit: int, expected: int, source: OpenedModel[Checkpoint], written: list[int]
) -> None:
    calibration = Calibration(("general", "self:64"), samples=4, length=64)
    result = tuning_windows(source, calibration, None, limit, CPU)
    assert written == [expected]
    number = result.description["texts"][1]["windows"]
    assert number == expected - len(result.windows.held_back["self"])


def test_the_bundled_text_judges_once(source: OpenedModel[Checkpoint]) -> None:
    calibration = Calibration(("general", "self:8"), length=64)
    result = tuning_windows(source, calibration, None, 20, CPU)
    assert list(result.windows.held_back) == ["general/calibration", "self"]


def test_tuning_on_one_window_is_refused(source: OpenedModel[Checkpoint], tmp_path: Path) -> None:
    short = text(tmp_path / "short.txt", "The miller counted nineteen sacks.")
    calibration = Calibration(short, length=LENGTH)
    assert len(_all(source, short)) == 1
    with pytest.raises(CorpusError, match="only one window"):
        tuning_windows(source, calibration, None, 8, CPU)


def test_a_run_on_a_mixture_repeats_to_the_byte(
    source: OpenedModel[Checkpoint], first: str, tmp_path: Path, cache: Path
) -> None:
    calibration = Calibration((first, "self:8=2"), samples=6, length=32)
    outputs = []
    for name in ("one", "two"):
        written_windows._LATEST.clear()
        recipe = Recipe("awq", formats=("gguf",), calibration=calibration)
        outputs.append(quantize(source.located, tmp_path / name, recipe).folders["gguf"])
        if name == "one":
            (file,) = cache.iterdir()
            file.unlink()
    manifests = [json.loads((each / "phi3quant.json").read_text()) for each in outputs]
    assert manifests[0]["calibration"] == manifests[1]["calibration"]
    assert [each["windows"] for each in manifests[0]["calibration"]["texts"]] == [2, 4]
    files = [next(each.glob("*.gguf")).read_bytes() for each in outputs]
    assert files[0] == files[1]


def test_an_importance_matrix_names_all_texts(
    source: OpenedModel[Checkpoint], first: str, tmp_path: Path
) -> None:
    calibration = Calibration((first, "self:4"), samples=4, length=32)
    written = write_imatrix(source.located, tmp_path / "i.gguf", calibration=calibration)
    assert written.imatrix.datasets == (first, "self")
    assert written.imatrix.chunks == 4


def test_the_command_line_mixes_texts(
    source: OpenedModel[Checkpoint], first: str, second: str, tmp_path: Path
) -> None:
    words = ["awq", str(source.path), "-o", str(tmp_path / "out"), "--calib", first]
    words += ["--calib", f"{second}=2", "--samples", "9", "--seq-len", "32", "--no-verify"]
    result = CliRunner().invoke(main, [*words, "--export", "gguf"])
    assert result.exit_code == 0, result.output
    assert "from" in result.output
    assert "first.txt," in result.output.replace("\n", " ")
    recorded = json.loads((tmp_path / "out" / "phi3quant.json").read_text())["calibration"]
    assert [each["windows"] for each in recorded["texts"]] == [3, 6]
    result = CliRunner().invoke(main, [*words, "--calib", "self:0"])
    assert result.exit_code == 2
    assert "'0' in self:0 is not a number of windows" in result.output.replace("\n", " ")


def test_gguf_models_write_text_too(source: OpenedModel[Checkpoint], tmp_path: Path) -> None:
    recipe = Recipe("rtn", formats=("gguf",))
    folder = quantize(source.located, tmp_path / "out", recipe).folders["gguf"]
    (file,) = folder.glob("*.gguf")
    calibration = Calibration("self:4", samples=4, length=32)
    written = write_imatrix(file, tmp_path / "i.gguf", calibration=calibration)
    assert written.imatrix.datasets == ("self",)
    assert load_tokenizer(source.path).encode("a")
