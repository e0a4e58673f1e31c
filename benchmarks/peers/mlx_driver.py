"""Driver for mlx-lm, run in its own environment: rounds a model, and tunes the result by DWQ.

It saves an MLX folder, which phi3quant can read. DWQ trains scales and offsets by the divergence
from the original's predictions, with mlx-lm's own code, batch and optimizer; the windows are given
instead of a dataset. It runs on the CPU where MLX has no GPU.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx_lm.quant.dwq import dwq_quantize
from mlx_lm.utils import load, quantize_model, save

from benchmarks.peers.plain import is_linear, parse_job

_BATCH = 4
_HELD_BACK = 4


def main() -> None:
    """Quantize and save."""
    given = parse_job()
    settings, group_size = given.settings, given.settings["group_size"]
    mx.random.seed(0)
    model, tokenizer, config = load(str(given.model), return_config=True)
    original, *_ = load(str(given.model), return_config=True)

    def width(path: str, _module: Any) -> dict[str, int]:
        # Embedding and head as phi3quant stores them.
        return {"group_size": group_size, "bits": 4 if is_linear(path) else 8}

    model, config = quantize_model(model, config, group_size, 4, quant_predicate=width)
    if rate := settings["learning_rate"]:
        windows = [(window.tolist(), 0) for window in np.load(given.windows)]
        dwq_quantize(
            model,
            lambda batch, _number, split: original(batch),  # noqa: ARG005 - named by mlx-lm
            optimizers.Adam(learning_rate=rate, bias_correction=True),
            windows[_HELD_BACK:],
            windows[:_HELD_BACK],
            batch_size=_BATCH,
            max_seq_length=len(windows[0][0]),
            seed=0,
            dtype=mx.float32,
        )
    model.set_dtype(mx.float16)
    save(str(given.artifact), str(given.model), model, tokenizer, config)


if __name__ == "__main__":
    main()
