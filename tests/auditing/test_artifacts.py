"""Artifacts of phi3quant, whose manifests, hashes and baselines are evidence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import phi3quant
from converters.gguf.reader import GgufCheckpoint
from phi3quant import Calibration, EvaluationText, Recipe
from phi3quant.auditing.audit import Audit, audit, audit_subject
from phi3quant.auditing.card.card import Card
from phi3quant.auditing.card.front_matter import parse_front_matter
from phi3quant.auditing.criteria import CRITERIA
from phi3quant.auditing.criteria import identity as identity_module
from phi3quant.auditing.finding import Point, Standing
from phi3quant.auditing.grade import Grade
from phi3quant.auditing.subject import Subject
from phi3quant.gating.baselines import create_baseline
from phi3quant.progress import silent
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.bundled import bundled_folder
from phi3quant.source.locate import locate
from phi3quant.source.weight_files import open_tensors
from tests.auditing.conftest import change_json
from tests.models import make_model


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Callable[[str], Path], prose: Path
) -> Path:
    """A verified run in three formats, and a baseline of its first."""
    root = tmp_path_factory.mktemp("audited")
    recipe = Recipe(
        formats=("compressed-tensors", "gguf", "onnx"),
        calibration=Calibration(prose, samples=4, length=64),
    )
    text = EvaluationText(prose, length=64)
    artifacts = phi3quant.quantize(checkpoint_folder("gqa"), root / "out", recipe, progress=silent)
    phi3quant.verify(artifacts, text, progress=silent)
    create_baseline(
        root / "out",
        root / "b.baseline",
        reference=checkpoint_folder("gqa"),
        text=text,
        progress=silent,
    )
    return root


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def points(result: Audit, criterion: str, standing: Standing) -> str:
    return "\n".join(
        f"{point.place}: {point.text}"
        for point in result[criterion].points
        if point.standing is standing
    )


@pytest.mark.parametrize("part", ["", "gguf", "gguf/*.gguf", "onnx"])
def test_every_format_is_audited_and_nothing_contradicted(made: Path, part: str) -> None:
    path = next((made / "out").glob(part)) if part else made / "out"
    result = audit(path)
    assert [each.name for each in result.findings] == list(CRITERIA)
    assert not result.tally.contradicted, repr(result)
    assert "SHA-256" in points(result, "dataset disclosure", Standing.SHOWN)
    assert result["benchmark reproducibility"].standing is Standing.SHOWN
    assert "match" in points(result, "versioning", Standing.SHOWN)
    if "gguf" in part:
        assert "general.size_label" in points(result, "parameter count", Standing.SHOWN)


def test_the_same_weights_as_in_the_baseline_are_shown(made: Path) -> None:
    result = audit(made / "out", baseline=made / "b.baseline")
    assert "are those of the baseline" in points(result, "versioning", Standing.SHOWN)
    shown = points(result, "benchmark reproducibility", Standing.SHOWN)
    assert "the baseline's recording gives" in shown


def test_changed_weights_under_the_same_name_are_a_contradiction(
    made: Path, tmp_path: Path, checkpoint_folder: Callable[[str], Path], prose: Path
) -> None:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "model")
    text = EvaluationText(prose, length=64)
    file = tmp_path / "b.baseline"
    create_baseline(tmp_path / "model", file, text=text, progress=silent)
    assert "are those" in points(
        audit(tmp_path / "model", baseline=file), "versioning", Standing.SHOWN
    )
    make_model(tmp_path / "model", seed=1)
    result = audit(tmp_path / "model", baseline=file)
    contradiction = points(result, "versioning", Standing.CONTRADICTED)
    assert contradiction == (
        "baseline artifact.sha256: the weights of model have changed: model.safetensors"
    )
    other = audit(tmp_path / "model", baseline=made / "b.baseline")
    assert "holds no weights named model" in points(other, "versioning", Standing.NOT_SHOWN)


def test_a_changed_file_contradicts_its_hash(out: Path) -> None:
    (out / "tokenizer.json").write_text((out / "tokenizer.json").read_text() + " ")
    result = audit(out)
    assert "tokenizer.json: has " in points(result, "versioning", Standing.CONTRADICTED)


def test_a_ratio_that_its_perplexities_do_not_give_is_a_contradiction(
    out: Path, made: Path
) -> None:
    recorded = phi3quant.inspect(out).manifest["verification"]
    better = {**recorded["artifact"], "ratio": 0.9}
    change_json(out / "phi3quant.json", verification={**recorded, "artifact": better})
    result = audit(out)
    assert "which is 1." in points(result, "benchmark reproducibility", Standing.CONTRADICTED)
    better = {**recorded["artifact"], "perplexity": 3.0}
    change_json(out / "phi3quant.json", verification={**recorded, "artifact": better})
    result = audit(out, baseline=made / "b.baseline")
    contradictions = points(result, "benchmark reproducibility", Standing.CONTRADICTED)
    assert "3.0000; the baseline's recording gives" in contradictions


def test_calibration_that_contradicts_the_recipe(out: Path) -> None:
    change_json(out / "phi3quant.json", calibration=None)
    contradiction = points(audit(out), "dataset disclosure", Standing.CONTRADICTED)
    assert "method is AWQ, but the manifest has no calibration text" in contradiction


def test_a_bundled_text_with_another_hash_is_a_contradiction(out: Path) -> None:
    calibration = phi3quant.inspect(out).manifest["calibration"]
    change_json(out / "phi3quant.json", calibration={**calibration, "text": "tiny/calibration"})
    contradiction = points(audit(out), "dataset disclosure", Standing.CONTRADICTED)
    assert "the bundled text has 759b" in contradiction


def test_every_text_of_a_mixture_is_compared_with_the_bundled_one(out: Path) -> None:
    calibration = phi3quant.inspect(out).manifest["calibration"]
    texts = [
        {"text": name, "text_sha256": "0" * 64} for name in ("chats.jsonl", "tiny/calibration")
    ]
    change_json(out / "phi3quant.json", calibration={**calibration, "texts": texts})
    result = audit(out)
    assert "text chats.jsonl" in points(result, "dataset disclosure", Standing.SHOWN)
    contradiction = points(result, "dataset disclosure", Standing.CONTRADICTED)
    assert "the bundled text has" in contradiction


def test_stale_sizes_in_an_index_are_contradictions(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "model")
    model = tmp_path / "model"
    names = open_tensors(model).tensors
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text("{}")
    change_json(index, weight_map=weight_map, metadata={"total_size": 4 * 102720})
    assert "total_size: 410880 bytes" in points(audit(model), "hardware footprint", Standing.SHOWN)
    change_json(index, metadata={"total_size": 7, "total_parameters": 3821079552})
    result = audit(model)
    assert "7 bytes" in points(result, "hardware footprint", Standing.CONTRADICTED)
    assert "3,821,079,552" in points(result, "parameter count", Standing.CONTRADICTED)


def answered(monkeypatch: pytest.MonkeyPatch, answer: str) -> Point:
    monkeypatch.setattr("phi3quant.auditing.audit._answer", lambda _opened: answer)
    finding = audit("phi3-tiny", ask=True)["identity consistency"]
    return next(point for point in finding.points if point.place == "answer to --ask")


def test_the_answer_of_a_model_is_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "I am Phi, made by Microsoft.": Standing.SHOWN,
        "My name is Phi-3, and I'm not ChatGPT.": Standing.SHOWN,
        "I'm ChatGPT, a model of OpenAI.": Standing.CONTRADICTED,
        "I am Qwen2.5, created by Alibaba Cloud.": Standing.CONTRADICTED,
        "I am not Claude.": Standing.NOT_SHOWN,
        "The lantern is red.": Standing.NOT_SHOWN,
    }
    for answer, standing in cases.items():
        assert answered(monkeypatch, answer).standing is standing, answer


def test_asking_uses_the_models_own_template() -> None:
    result = audit("phi3-tiny", ask=True)
    assert result.answer
    assert result.as_json()["question"] == identity_module.QUESTION
    assert audit("phi3-tiny").as_json()["question"] is None


def test_hashes_that_are_not_hashes_are_a_contradiction_and_no_end(out: Path) -> None:
    change_json(out / "phi3quant.json", files={"config.json": {"sha256": "abc"}})
    result = audit(out)
    assert "recorded hashes: " in points(result, "versioning", Standing.CONTRADICTED)
    assert result["tokenizer integrity"].standing is not Standing.NOT_SHOWN


def test_an_onnx_graph_of_another_depth_is_a_contradiction(out: Path) -> None:
    change_json(out / "onnx" / "config.json", num_hidden_layers=3)
    contradiction = points(audit(out / "onnx"), "architecture provenance", Standing.CONTRADICTED)
    assert (
        "3 layers with 2 key-value heads of 16 values; the graph's caches have 2" in contradiction
    )


def with_metadata(made: Path, card: str = "", licence: str = "", **keys: object) -> Audit:
    """The audit of the GGUF file with other metadata, and a card and a licence next to it."""
    opened = open_artifact(locate(next((made / "out" / "gguf").glob("*.gguf"))))
    assert isinstance(opened.model, GgufCheckpoint)
    fields = {**opened.model.model.fields, **{f"general.{key}": keys[key] for key in keys}}
    model = replace(opened.model, model=replace(opened.model.model, fields=fields))
    lines = card.split("\n")
    front = Card(parse_front_matter(lines)) if card else None
    licences = {"LICENSE": licence} if licence else {}
    return audit_subject(Subject(replace(opened, model=model), front, licences))


def test_gguf_metadata_counts_like_a_card(made: Path) -> None:
    mit = "Permission is hereby granted, free of charge"
    agreeing = with_metadata(made, "datasets: [a]", mit, license="mit", datasets=["a"])
    assert agreeing["licence"].standing is Standing.SHOWN
    assert agreeing["dataset disclosure"].standing is Standing.SHOWN
    differing = with_metadata(
        made,
        "license: mit\ndatasets: [a]",
        license="apache-2.0",
        datasets=["b"],
        size_label="7B",
        name="Llama 3 8B",
    )
    for criterion, evidence in (
        ("licence", "general.license: states apache-2.0; elsewhere it is mit"),
        ("dataset disclosure", "has none of the datasets that the card lists"),
        ("parameter count", "general.size_label: states 7B"),
        ("identity consistency", "names Llama"),
    ):
        assert evidence in points(differing, criterion, Standing.CONTRADICTED)
    assert differing.grade is Grade.F


def test_a_vocabulary_past_the_embedding_is_a_contradiction(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer.json"
    added = json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]
    further = {**added[0], "id": 320, "content": "<|more|>"}
    change_json(tokenizer, added_tokens=[*added, further])
    result = audit(tmp_path / "model")
    assert ("ids up to 320; the embedding has 320 rows") in points(
        result, "tokenizer integrity", Standing.CONTRADICTED
    )


def test_a_model_without_a_tokenizer_is_audited(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    result = audit(tmp_path / "model")
    assert result["tokenizer integrity"].standing is Standing.NOT_SHOWN
    (tmp_path / "model" / "tokenizer.json").write_text("{", encoding="utf-8")
    contradiction = points(audit(tmp_path / "model"), "tokenizer integrity", Standing.CONTRADICTED)
    assert "tokenizer.json is not readable as JSON" in contradiction


def test_sentencepiece_alone_is_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    shutil.copytree(bundled_folder(), tmp_path / "phi3-tiny")
    (tmp_path / "phi3-tiny" / "tokenizer.json").unlink()
    assert audit(tmp_path / "phi3-tiny")["tokenizer integrity"].standing is Standing.SHOWN
