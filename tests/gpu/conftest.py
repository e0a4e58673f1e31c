import pytest
import torch


def pytest_report_header() -> str:
    """Name the GPU in pytest's header, or say that there is none."""
    if not torch.cuda.is_available():
        return "tests/gpu: no CUDA GPU here, so its tests are skipped"
    return f"tests/gpu: {torch.cuda.get_device_name()}"


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return torch.device("cuda", 0)
