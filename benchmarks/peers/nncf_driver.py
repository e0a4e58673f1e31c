"""Driver for NNCF, run in its own environment: compresses weights with scale estimation.

The compressed modules stay in memory as NNCF leaves them in PyTorch; its own decompressors decode
them. Embedding and head, which NNCF gives 8 bits, stay as they were.
"""

import nncf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.peers.plain import is_linear, parse_job, write_plain

_BYTES = "stored bytes"


def main() -> None:
    """Quantize and keep the decoded matrices, or write them as a plain checkpoint."""
    given = parse_job()
    kept = given.artifact.with_suffix(".safetensors")
    if given.phase == "read":
        decoded = load_file(kept)
        stored = int(decoded.pop(_BYTES))
        write_plain(given.model, given.plain, lambda name, _weight: decoded[name], lambda: stored)
        return
    model = AutoModelForCausalLM.from_pretrained(
        given.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.config.use_cache = False
    windows = torch.from_numpy(np.load(given.windows))
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
        group_size=given.settings["group_size"],
        scale_estimation=True,
        dataset=nncf.Dataset([{"input_ids": window[None]} for window in windows]),
        subset_size=len(windows),
    )
    decompressors = {
        # Hooks are named after the tensors, with colons for dots and two numbers at the end.
        name.partition(".post_hooks.")[2].partition("__")[0].replace(":", "."): module
        for name, module in compressed.named_modules()
        if type(module).__name__.endswith("Decompressor")
    }
    made, stored = {}, 0
    for name, packed in compressed.named_parameters():
        if is_linear(name):
            module = decompressors[name]
            made[name] = module(packed).float().view(shapes[name]).contiguous()
            stored += packed.nbytes + sum(buffer.nbytes for buffer in module.buffers())
    save_file({**made, _BYTES: torch.tensor(stored)}, kept)


if __name__ == "__main__":
    main()
