"""The harness of the benchmarks; the tools themselves run only in ``make bench``."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmarks.markers import replace_between
from benchmarks.peers import tools
from benchmarks.peers.job import Job, Step, Tool, perform
from benchmarks.peers.plain import LINEARS as PEERS_LINEARS
from benchmarks.peers.plain import is_linear, write_plain
from benchmarks.peers.process import RefusedError, run
from benchmarks.peers.tools import TOOLS, source_of
from benchmarks.quality import result
from benchmarks.quality.entries import ENTRIES, chosen
from benchmarks.quality.subject import Subject
from benchmarks.speed import measure as speed
from benchmarks.speed.plan import TASKS, Size, Turn, comparisons, growth
from benchmarks.speed.report import scaled
from benchmarks.speed.sample import Sample, key_of, open_samples
from converters import open_weights
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.perplexity import score
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS, block_tensor_name, tensor_shapes
from phi3quant.source.locate import bundled_folder


def _subject(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr("benchmarks.quality.subject.WORK", folder)
    monkeypatch.setattr("benchmarks.quality.subject.RESULTS", folder)
    text = EvaluationText("tiny", length=64, max_tokens=640)
    return Subject("phi3-tiny", bundled_folder(), "tiny", (text,), samples=2, seq_len=64)


def test_a_small_tools_peak_memory_is_not_its_parents(tmp_path: Path) -> None:
    # This process has loaded torch: hundreds of megabytes.
    small = run([sys.executable, "-S", "-c", "pass"], tmp_path / "log", 1, {})
    assert small.peak_bytes < 50e6
    large = run([sys.executable, "-S", "-c", "bytearray(10**8)"], tmp_path / "log", 1, {})
    assert large.peak_bytes > small.peak_bytes + 90e6


def test_a_refusal_is_the_last_thing_that_was_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('needs a GPU')"]
    with pytest.raises(RefusedError, match="exit code 1: needs a GPU"):
        run(command, tmp_path / "log", 1, {})


def test_only_a_tools_own_steps_are_timed(tmp_path: Path) -> None:
    wait = [sys.executable, "-c", "import time; time.sleep(3)"]
    never = [sys.executable, "-c", "raise SystemExit(1)"]
    steps = [
        Step(wait, timed=False),
        Step(never, makes=tmp_path),
        Step([sys.executable, "-S", "-c", "pass"]),
        Step(never, reads=True),
    ]
    job = Job(
        model=tmp_path,
        calib="tiny",
        samples=1,
        seq_len=2,
        windows=tmp_path,
        words=tmp_path,
        shared=tmp_path,
        folder=tmp_path,
        threads=1,
    )
    spent = perform(Tool("any", lambda _job, _settings: steps), job, {}, reading=False)
    assert 0 < spent.seconds < 3


def test_drivers_call_linear_what_phi3quant_quantizes() -> None:
    config = open_weights(bundled_folder()).config
    named = {block_tensor_name(0, key) for key in LINEARS}
    assert {name for name in tensor_shapes(config) if is_linear(name) and ".0." in name} == named
    assert set(PEERS_LINEARS) == {
        BLOCK_TENSORS[key].name.removesuffix(".weight") for key in LINEARS
    }


def test_a_decoded_checkpoint_holds_what_the_driver_decoded(tmp_path: Path) -> None:
    write_plain(bundled_folder(), tmp_path, lambda _name, weight: weight.float() * 2, lambda: 7)
    made, source = open_weights(tmp_path), open_weights(bundled_folder())
    assert torch.equal(made.block(1)["o_proj"], source.block(1)["o_proj"] * 2)
    assert torch.equal(made.embedding(), source.embedding())


def test_scoring_beside_remembered_states_is_scoring_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = _subject(tmp_path, monkeypatch)
    write_plain(subject.model, tmp_path / "other", lambda _name, w: w.float() * 1.01, lambda: 0)
    other = open_weights(tmp_path / "other")
    subject.write_calibration()
    for _ in range(2):  # the second time from the file
        found = subject.compare(other, 0)
        direct = score([subject.opened, other], subject.scored[0][0])[1]
        assert torch.equal(found.candidate.nll, direct.candidate.nll)
        assert torch.equal(found.kl, direct.kl)


def test_peers_get_the_windows_that_we_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = _subject(tmp_path, monkeypatch)
    ids, words = subject.write_calibration()
    assert np.array_equal(np.load(ids), subject.calibration.numpy())
    assert subject.tokenizer.decode(subject.calibration[0].tolist()) in words.read_text("utf-8")


def test_a_result_belongs_to_its_settings_and_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = _subject(tmp_path, monkeypatch)
    entry = next(entry for entry in ENTRIES if entry.tool == "HQQ")
    key = result.key_of(entry, subject)
    assert key == result.key_of(replace(entry), replace(subject))
    assert key != result.key_of(replace(entry, settings={"group_size": 128}), subject)
    other = replace(subject, texts=(EvaluationText("general"),))
    assert key == result.key_of(entry, other)
    assert subject.text_hashes != other.text_hashes
    assert key != result.key_of(entry, replace(subject, samples=1))


def test_a_report_marks_an_older_source_and_leaves_out_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")  # of the extra bench
    report = importlib.import_module("benchmarks.quality.report")
    monkeypatch.setattr(report, "write_plot", lambda _title, _rows, _path: None)
    subject = _subject(tmp_path, monkeypatch)
    current, older, other = (
        entry for entry in ENTRIES if entry.tool == "HQQ" or entry is ENTRIES[0]
    )
    score = {"ratio": 1.05, "ratio_95": [1.04, 1.06], "kl_mean": 0.1}
    scores = {subject.text_hashes[0]: score}
    measured = result.Result("", "", None, 4.5, 9.0, 1.0, 1, 1, {}, scores)
    for entry, source in ((current, source_of(current.tool, current.settings)), (older, "before")):
        made = replace(measured, key=result.key_of(entry, subject), source=source)
        result.save_result(entry, subject, made)
    result.save_result(other, subject, replace(measured, key="of other settings"))
    docs = tmp_path / "docs"
    docs.mkdir()
    markers = "<!-- bench-quality: begin -->\n<!-- bench-quality: end -->\n"
    (docs / "quality.md").write_text(markers, encoding="utf-8")
    report.write_report([subject], docs)
    text = (docs / "quality.md").read_text("utf-8")
    assert f"| **{current.title}** |" in text
    assert f"| {older.title} † |" in text
    assert other.title not in text
    assert "| +5.00% (+4.00% to +6.00%) | 0.1000 | 1 s | 1 byte |" in text
    added = EvaluationText("general", length=64, max_tokens=640)
    more = replace(subject, texts=(*subject.texts, added))
    report.write_report([more], docs)
    assert "| 0.1000 | not scored |  | 1 s |" in (docs / "quality.md").read_text("utf-8")


def test_every_row_has_a_tool_and_a_name_of_its_own() -> None:
    titles = [entry.title for entry in ENTRIES]
    assert len(set(titles)) == len(titles) == len(chosen(["ours"])) + len(chosen(["peers"]))
    assert len({result.slug(entry) for entry in ENTRIES}) == len(ENTRIES)
    assert {entry.tool for entry in ENTRIES} <= set(TOOLS)
    assert [entry.tool for entry in chosen(["autoawq"])] == ["AutoAWQ"]


def test_turns_hold_known_tasks_and_growth_changes_one_thing() -> None:
    base = Size("mini-4k", layers=2, samples=32, threads=1)
    turns = comparisons(base, 3)
    assert all(name in TASKS for turn in turns for name in turn.tasks)
    assert all(TASKS[name].beside in (None, *turn.tasks) for turn in turns for name in turn.tasks)
    for axis, several in growth(base, 1).items():
        changed = {"width": "shape"}.get(axis, axis)
        same = [replace(turn.size, **{changed: getattr(base, changed)}) for turn in several]
        assert same == [base] * len(several)
        assert len({turn.size for turn in several}) == len(several)


def test_a_whole_model_is_told_only_where_growth_is_a_line_and_not_noise() -> None:
    grown = {
        "line": [(1.0, 105.0, 0.0), (2.0, 204.0, 0.0), (4.0, 405.0, 0.0)],
        "noise": [(1.0, 3.0, 0.0), (2.0, 4.2, 0.0), (4.0, 3.6, 0.0)],
        "two points": [(1.0, 105.0, 0.0), (2.0, 204.0, 0.0)],
    }
    told = scaled(grown, 32).splitlines()
    assert len(told) == 3
    assert told[2].startswith("- line: 320")
    assert scaled({"noise": grown["noise"]}, 32) == ""


def test_only_what_computes_counts_as_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    monkeypatch.setattr(tools, "_TELLING", ("told", "pace.py"))
    monkeypatch.setattr(tools, "_ON_REQUEST", {("--tune", "best"): ("phi3quant/tuned",)})
    for folder in ("told", "tuned"):
        (tmp_path / "phi3quant" / folder).mkdir(parents=True)
    before = source_of("phi3quant", {"arguments": ["rtn"]})

    def changed(name: str, text: str) -> bool:
        nonlocal before
        (tmp_path / "phi3quant" / name).write_text(text, "utf-8")
        earlier, before = before, source_of("phi3quant", {"arguments": ["rtn"]})
        return earlier != before

    assert changed("codes.py", "def code() -> int:\n    return 1\n")
    assert not changed("codes.py", 'def code() -> int:\n    """One."""\n    return 1  # or so\n')
    assert changed("codes.py", "def code() -> int:\n    return 2\n")
    assert not changed("told/page.py", "PAGE = 1\n")
    assert not changed("pace.py", "PACE = 1\n")
    tuning = {"arguments": ["awq", "--preset", "best"]}
    tuned = source_of("phi3quant", tuning)
    assert not changed("tuned/rate.py", "RATE = 1\n")
    assert source_of("phi3quant", tuning) != tuned


def _timed(source: str, machine: str = "here") -> Sample:
    return Sample(1.5, 7, None, machine, source, {"torch": "2"})


def test_samples_are_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    samples = open_samples(path)
    first, second = (key_of(TASKS["rtn"], Size("mini-4k", 1, 1, 1), n) for n in (0, 1))
    samples.add(first, _timed("now"))
    again = open_samples(path)
    assert again.known == {first: _timed("now")}
    again.add(second, replace(_timed("now"), refused="needs a GPU"))
    assert open_samples(path).known == again.known
    assert len(again.known) == 2


@pytest.mark.parametrize(
    ("source", "machine", "renewed", "kept"),
    [
        ("now", "here", 0, 0),
        ("before", "here", 2, 0),
        ("now", "elsewhere", 2, 2),
    ],
)
def test_a_round_is_measured_again_as_a_whole(
    source: str,
    machine: str,
    renewed: int,
    kept: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Number of its two runs that are repeated, with --renew and without, if one differs."""
    turn = Turn("some", Size("mini-4k", 1, 1, 1), ("rtn", "Q4_K_M"), rounds=1)
    monkeypatch.setattr(speed, "_warm_up", Mock())
    monkeypatch.setattr(speed, "described", Mock(return_value="here"))
    monkeypatch.setattr(speed, "source_of", Mock(return_value="now"))
    for renew, runs in ((True, renewed), (False, kept)):
        monkeypatch.setattr(speed, "_sample", run := Mock(return_value=_timed("now")))
        samples = open_samples(tmp_path / f"{renew}.json")
        samples.add(key_of(TASKS["rtn"], turn.size, 0), _timed(source, machine))
        samples.add(key_of(TASKS["Q4_K_M"], turn.size, 0), _timed("now"))
        speed.measure(turn, samples, renew=renew)
        assert run.call_count == runs


def test_a_report_marks_what_an_older_source_made(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # of the extra bench
    report = importlib.import_module("benchmarks.speed.report")
    turn = Turn("Some", Size("mini-4k", 1, 1, 1), ("rtn", "llama.cpp llama-quantize Q4_0"), 1)
    samples = open_samples(tmp_path / "samples.json")
    sources = (source_of("phi3quant", TASKS["rtn"].settings), "before")
    for name, source, seconds in zip(turn.tasks, sources, (2.0, 3.0), strict=True):
        samples.add(key_of(TASKS[name], turn.size, 0), replace(_timed(source), seconds=seconds))
    replace_between(tmp_path / "performance.md", "bench-speed", "")
    report.write_report([turn], {}, samples, tmp_path)
    text = (tmp_path / "performance.md").read_text("utf-8")
    assert "| **phi3quant rtn** | 2.0 s | 2.0-2.0 s |" in text
    assert "| llama.cpp llama-quantize Q4_0 † | 3.0 s |" in text
    assert "1.50 (1.50-1.50) of rtn" in text
    assert "Measured on: here. †" in text


def test_a_plot_is_the_same_bytes_for_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # of the extra bench
    plot = importlib.import_module("benchmarks.quality.plot")
    points = dict.fromkeys(ENTRIES, (4.5, 5.0))
    for name in ("one", "two"):
        plot.write_plot("real", points, tmp_path / f"{name}.svg")
    text = (tmp_path / "one.svg").read_text("utf-8")
    assert text == (tmp_path / "two.svg").read_text("utf-8")
    steps = {entry.name for entry in ENTRIES if entry.name.endswith((", rtn", " alone"))}
    assert {entry.name for entry in ENTRIES if f">{entry.name}<" in text} == {
        entry.name for entry in ENTRIES
    } - steps


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "some.md"
    replace_between(document, "bench", "old")
    document.write_text("before\n" + document.read_text("utf-8") + "after\n", "utf-8")
    replace_between(document, "bench", "new")
    text = document.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "new" in text
    assert "old" not in text
    with pytest.raises(ValueError, match="other: begin"):
        replace_between(document, "other", "new")
