"""Driver for GPTQModel, run in its own environment: quantizes a model on token windows.

phi3quant reads its folders too, but what is compared is decoded here from the saved file. An int32
holds eight codes: in ``qweight`` of consecutive inputs, in ``qzeros`` of consecutive outputs.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from gptqmodel import GPTQModel
from gptqmodel.quantization import AWQConfig, GPTQConfig
from transformers import AutoTokenizer

from benchmarks.peers.plain import parse_job, tensors, write_plain

_CONFIGS = {"gptq": GPTQConfig, "awq": AWQConfig}
_NIBBLES = torch.arange(0, 32, 4, dtype=torch.int32)
# GPTQModel splits gate_up_proj; this is the order of the rows in a checkpoint.
_APART = {"gate_up_proj": ("gate_proj", "up_proj")}


def quantize(given: argparse.Namespace) -> None:
    """Quantize and save."""
    config = _CONFIGS[given.settings["method"]](
        bits=4, group_size=given.settings["group_size"], sym=given.settings["symmetric"]
    )
    model = GPTQModel.load(str(given.model), config, device="cpu", dtype=torch.float32)
    windows = np.load(given.windows)
    calibration = [
        {"input_ids": window.tolist(), "attention_mask": [1] * len(window)} for window in windows
    ]
    model.quantize(calibration, batch_size=1, tokenizer=AutoTokenizer.from_pretrained(given.model))
    model.save(str(given.artifact))


def read(given: argparse.Namespace) -> None:
    """Decode the saved artifact into a plain checkpoint."""
    stored = dict(tensors(given.artifact))
    symmetric = given.settings["symmetric"]
    # The zero points of a symmetric scheme and the order of columns carry no information.
    told = (".qweight", ".scales") if symmetric else (".qweight", ".scales", ".qzeros")
    linear_bytes = sum(each.nbytes for name, each in stored.items() if name.endswith(told))

    def decode(name: str, _source: torch.Tensor) -> torch.Tensor:
        module = name.removesuffix(".weight")
        parent, _, role = module.rpartition(".")
        apart = [f"{parent}.{part}" for part in _APART.get(role, ())]
        parts = [module] if f"{module}.qweight" in stored else apart
        return torch.cat([_decoded(stored, part) for part in parts])

    write_plain(given.model, given.plain, decode, lambda: linear_bytes)


def _decoded(stored: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Decoded matrix, FP32 [rows, columns]."""
    codes, zeros = stored[f"{name}.qweight"], stored[f"{name}.qzeros"]
    scales, group = stored[f"{name}.scales"].float(), stored[f"{name}.g_idx"].long()
    columns = (codes[:, None, :] >> _NIBBLES[None, :, None] & 15).flatten(0, 1)
    points = (zeros[:, :, None] >> _NIBBLES & 15).flatten(1, 2)
    # Stored zero points are one less, as in AutoGPTQ.
    points = points + 1 & 15
    return ((columns - points[group]) * scales[group]).T


def main() -> None:
    """Run the requested phase."""
    given = parse_job()
    {"quantize": quantize, "read": read}[given.phase](given)


if __name__ == "__main__":
    main()
