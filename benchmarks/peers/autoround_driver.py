"""Driver for AutoRound, run in its own environment: quantizes a model on token windows.

It saves a compressed-tensors folder, which phi3quant can read. It runs on the first CUDA GPU, if
torch can use one, otherwise on the CPU.
"""

import numpy as np
import torch
from auto_round import AutoRound

from benchmarks.peers.plain import parse_job

_BATCH = 8


def main() -> None:
    """Quantize and save."""
    given = parse_job()
    settings = given.settings
    windows = torch.from_numpy(np.load(given.windows))
    # Without a mask, AutoRound hides every token that equals the padding token.
    batches = [
        {"input_ids": batch, "attention_mask": torch.ones_like(batch)}
        for batch in torch.split(windows, _BATCH)
    ]
    rounding = AutoRound(
        str(given.model),
        scheme="W4A16",
        group_size=settings["group_size"],
        sym=settings["symmetric"],
        iters=settings["iterations"],
        dataset=batches,
        nsamples=len(windows),
        seqlen=windows.shape[1],
        batch_size=_BATCH,
        device_map="cuda" if torch.cuda.is_available() else "cpu",
        # Mixed precision casts the whole model to BF16, tensors that aren't quantized included.
        amp=False,
        # Otherwise blocks are saved as soon as they are quantized.
        low_cpu_mem_usage=False,
    )
    model, _ = rounding.quantize()
    # Tensors that aren't quantized keep the dtype of the computation; deployed models have FP16.
    model.half()
    rounding.save_quantized(str(given.artifact), format="llm_compressor")


if __name__ == "__main__":
    main()
