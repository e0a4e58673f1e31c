"""Runs inside GPTQModel's own environment: quantize a model on given token windows.

Its reader of matrices isn't ours, so codes are decoded here from the file that it saved, as its
format says: eight codes in an int32, those of ``qweight`` down the columns of a row, those of
``qzeros`` along the rows.
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
# It takes gate_up_proj apart; rows stand in this order in a checkpoint.
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
    """Decode what was saved into a plain checkpoint."""
    stored = dict(tensors(given.artifact))
    symmetric = given.settings["symmetric"]
    # What a symmetric scheme stores of zero points, and the order of columns, say nothing.
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
    """A matrix FP32 [rows, columns]."""
    codes, zeros = stored[f"{name}.qweight"], stored[f"{name}.qzeros"]
    scales, group = stored[f"{name}.scales"].float(), stored[f"{name}.g_idx"].long()
    columns = (codes[:, None, :] >> _NIBBLES[None, :, None] & 15).flatten(0, 1)
    points = (zeros[:, :, None] >> _NIBBLES & 15).flatten(1, 2)
    # Its files hold zero points less one, as those of AutoGPTQ did.
    points = points + 1 & 15
    return ((columns - points[group]) * scales[group]).T


def main() -> None:
    """The phase that was asked for."""
    given = parse_job()
    {"quantize": quantize, "read": read}[given.phase](given)


if __name__ == "__main__":
    main()
