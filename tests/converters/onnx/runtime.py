"""onnxruntime with a folder that phi3quant wrote."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch


class Runtime:
    """onnxruntime with a folder of ours, and the cache between runs."""

    def __init__(self, folder: Path) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", settings)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        self._cache: dict[str, np.ndarray] = {}

    def start(self, batch: int) -> None:
        """Forget everything."""
        for given in self._session.get_inputs()[2:]:
            _, heads, _, width = given.shape
            shape = (batch, heads, 0, width)
            self._cache[given.name] = np.zeros(shape, self._types[given.type])

    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits FP32 of the next ids, with a mask over all so far."""
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.long().numpy(), **self._cache}
        logits, *cache = self._session.run(self._outputs, feeds)
        self._cache = dict(zip(self._cache, cache, strict=True))
        return torch.from_numpy(np.asarray(logits, np.float32))

    def once(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of whole texts."""
        self.start(len(ids))
        return self.run(ids, torch.ones_like(ids))
