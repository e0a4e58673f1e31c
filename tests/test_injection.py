import subprocess
import sys

import pytest


@pytest.mark.parametrize("export", ["compressed-tensors,gguf,onnx"])
def test_no_fault_loses_anything(export: str) -> None:
    # A process of its own, since it forks and must have few threads.
    done = subprocess.run(
        [sys.executable, "-m", "tests.injection", "--points", "8", "--export", export],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{export}: 8 faults, 0 problems" in done.stdout
