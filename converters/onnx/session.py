"""Sessions of onnxruntime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from packaging.version import Version

from phi3quant.errors import CheckpointError, RuntimeTooOldError

NEEDED_RUNTIME = "1.23"
"""Oldest supported onnxruntime.

Older ones exclude the token itself from the window of GroupQueryAttention, and can't look up 8-bit
codes."""

_FATAL_ONLY = 4


class Session:
    """Graph loaded by onnxruntime."""

    def __init__(self, model: ModelProto, folder: Path) -> None:
        runtime = _runtime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = torch.get_num_threads()
        key = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(key, str(folder.resolve()))
        try:
            self._session = runtime.InferenceSession(model.SerializeToString(), settings)
        except Exception as error:  # noqa: BLE001 - the library's exceptions have no common base
            raise CheckpointError(
                f"onnxruntime {runtime.__version__} can't load {folder}: {_first_line(error)}"
            ) from None
        self._folder = folder
        self._value = runtime.OrtValue.ortvalue_from_numpy

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Compute outputs as values of the runtime.

        Args:
            outputs: names of the outputs.
            feeds: tensors or values of the runtime by input name.

        Raises:
            CheckpointError: the runtime fails.
        """
        values = {
            name: self._value(feed.numpy()) if isinstance(feed, torch.Tensor) else feed
            for name, feed in feeds.items()
        }
        try:
            results: list[Any] = self._session.run_with_ort_values(list(outputs), values)
        except Exception as error:  # noqa: BLE001 - as above
            raise CheckpointError(
                f"onnxruntime can't run {self._folder}: {_first_line(error)}"
            ) from None
        return results


def to_tensor(value: Any) -> torch.Tensor:
    """Convert a value of the runtime to an FP32 tensor."""
    return torch.from_numpy(value.numpy()).float()


def _runtime() -> Any:
    """Import the runtime's module.

    Raises:
        RuntimeTooOldError: the installed version is too old.
    """
    import onnxruntime  # noqa: PLC0415 - takes a while to load, and only scoring needs it

    if Version(onnxruntime.__version__) < Version(NEEDED_RUNTIME):
        raise RuntimeTooOldError("onnxruntime", onnxruntime.__version__, NEEDED_RUNTIME)
    return onnxruntime


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
