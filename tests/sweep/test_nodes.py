"""Comparison of a cluster's nodes before work starts, and Ray as an extra."""

import dataclasses
import sys
from pathlib import Path

import pytest

from phi3quant.cluster.nodes import Facts, Inquiry, compare, facts
from phi3quant.errors import ClusterError, MissingExtraError
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.locate import locate
from phi3quant.sweep.conduct import sweep
from phi3quant.sweep.grid import Grid
from phi3quant.sweep.ray_jobs import RayRunner
from tests.sweep.conftest import CPU


@pytest.fixture
def inquiry(model: Path, tmp_path: Path) -> Inquiry:
    results = tmp_path / "sweep.json"
    results.write_text("{}")
    return Inquiry(str(Path.cwd()), results, (locate(model),), "cpu")


def test_a_node_with_the_same_versions_and_files_agrees(inquiry: Inquiry) -> None:
    here = facts(inquiry, SharedWork())
    assert {"phi3quant", "torch", "device", "results"} < here.required.keys()
    assert any(key.endswith("model.safetensors") for key in here.required)
    assert compare(here, {"other": facts(inquiry, SharedWork())}) == []


def test_other_versions_and_files_are_refused_by_name(inquiry: Inquiry) -> None:
    here = facts(inquiry, SharedWork())
    other = dataclasses.replace(here, required={**here.required, "torch": "1.0", "numba": "0"})
    with pytest.raises(ClusterError, match=r"node b differs .* torch \(1\.0, here .*numba"):
        compare(here, {"a": here, "b": other})


def test_another_folder_is_refused(inquiry: Inquiry, tmp_path: Path) -> None:
    here = facts(inquiry, SharedWork())
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{ }")
    other = facts(dataclasses.replace(inquiry, results=elsewhere), SharedWork())
    with pytest.raises(ClusterError, match="results"):
        compare(here, {"b": other})
    missing = facts(dataclasses.replace(inquiry, results=tmp_path / "none"), SharedWork())
    with pytest.raises(ClusterError, match=r"node b can't do the work: .*No such file"):
        compare(here, {"b": missing})


def test_another_kind_of_cpu_is_only_noted(inquiry: Inquiry) -> None:
    here = facts(inquiry, SharedWork())
    (note,) = compare(here, {"b": Facts(here.required, "arm64 NEON")})
    assert "arm64 NEON" in note


def test_without_ray_the_message_names_the_extra(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"phi3quant\[cluster\]"):
        sweep(grid, tmp_path / "out", CPU, runner=RayRunner("local"))
