"""Fixtures that all tests share."""

import contextlib
import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from phi3quant.cli.ending import TRACEBACK
from tests.models import PROSE, VARIANTS, make_model

# The same examples in every run: a failure can be repeated, and none comes by surprise.
# None fails because the machine is slow.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


# Errors that phi3quant has no message for fail a test with their traceback.
os.environ.setdefault(TRACEBACK, "1")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """Commands under test set the number of threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder of a variant's checkpoint; it must not be changed."""
    made: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant)
            make_model(made[variant], **VARIANTS[variant])
        return made[variant]

    return folder


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file to calibrate and score on."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    return path


def pytest_report_header() -> list[str]:
    """Name the GPU and Ray in pytest's header, or say that there is none."""
    gpu = "no CUDA GPU here, so its tests are skipped"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    ray = "Ray isn't installed, so its tests are skipped"
    with contextlib.suppress(PackageNotFoundError):
        ray = f"Ray {version('ray')}"
    return [f"tests/gpu: {gpu}", f"tests/cluster, tests/sweep: {ray}"]
