"""onnxruntime, with a graph in its hands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from packaging.version import Version

from phi3quant.errors import CheckpointError, RuntimeTooOldError

NEEDED_RUNTIME = "1.23"
"""Older ones count the window of GroupQueryAttention without the token itself, and look up no codes
of 8 bits."""

_FATAL_ONLY = 4


class Session:
    """A graph in onnxruntime's hands."""

    def __init__(self, model: ModelProto, folder: Path) -> None:
        runtime = _runtime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = torch.get_num_threads()
        key = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(key, str(folder.resolve()))
        try:
            self._session = runtime.InferenceSession(model.SerializeToString(), settings)
        except Exception as error:  # noqa: BLE001 - what the library raises has no common base
            raise CheckpointError(
                f"onnxruntime {runtime.__version__} can't load {folder}: {_first_line(error)}"
            ) from None
        self._folder = folder
        self._value = runtime.OrtValue.ortvalue_from_numpy

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Compute outputs, as the runtime's values.

        Args:
            outputs: their names.
            feeds: tensors, or values of the runtime, by the inputs' names.

        Raises:
            CheckpointError: the runtime fails.
        """
        values = {
            name: self._value(feed.numpy()) if isinstance(feed, torch.Tensor) else feed
            for name, feed in feeds.items()
        }
        try:
            found: list[Any] = self._session.run_with_ort_values(list(outputs), values)
        except Exception as error:  # noqa: BLE001 - as above
            raise CheckpointError(
                f"onnxruntime can't run {self._folder}: {_first_line(error)}"
            ) from None
        return found


def to_tensor(value: Any) -> torch.Tensor:
    """A runtime's value as an FP32 tensor."""
    return torch.from_numpy(value.numpy()).float()


def _runtime() -> Any:
    """The runtime's module.

    Raises:
        RuntimeTooOldError: it is.
    """
    import onnxruntime  # noqa: PLC0415 - takes a while to load, and only scoring needs it

    if Version(onnxruntime.__version__) < Version(NEEDED_RUNTIME):
        raise RuntimeTooOldError("onnxruntime", onnxruntime.__version__, NEEDED_RUNTIME)
    return onnxruntime


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
