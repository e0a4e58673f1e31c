"""Plain checkpoints for drivers, in environments without phi3quant.

If phi3quant can't read a peer's format, its driver decodes the artifact into a plain checkpoint:
the tensors of the source, with the quantized ones in FP32 as decoded by the peer.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LINEARS = (
    "self_attn.qkv_proj",
    "self_attn.o_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
)
"""The matrices of a block that every tool quantizes."""

SIZES = "sizes.json"
"""Key of a driver's report: ``linear_bytes``, the stored bytes of all quantized matrices."""


def parse_job() -> argparse.Namespace:
    """Arguments of a driver, as passed by ``job.driver``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("prepare", "quantize", "read"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True, help="int64 ids as .npy")
    parser.add_argument("--artifact", type=Path, required=True, help="what the peer writes")
    parser.add_argument("--plain", type=Path, required=True, help="the plain checkpoint")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of all tensors in a folder of safetensors."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)


def is_linear(name: str) -> bool:
    """Whether a tensor of this name is one of the blocks' matrices."""
    return name.removesuffix(".weight").endswith(LINEARS)


def write_plain(
    model: Path,
    plain: Path,
    decode: Callable[[str, torch.Tensor], torch.Tensor],
    linear_bytes: Callable[[], int],
) -> None:
    """Write a copy of the model with decoded matrices.

    Args:
        model: folder of the source.
        plain: folder to make.
        decode: returns a decoded matrix [rows, columns], from its name and the original matrix.
        linear_bytes: returns the bytes of all matrices in the peer's format, scales and zeros
            included; called after all matrices are decoded.
    """
    plain.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model / "config.json", plain / "config.json")
    written = {
        name: decode(name, tensor).float().contiguous() if is_linear(name) else tensor
        for name, tensor in tensors(model)
    }
    save_file(written, plain / "model.safetensors")
    (plain / SIZES).write_text(json.dumps({"linear_bytes": linear_bytes()}), encoding="utf-8")
