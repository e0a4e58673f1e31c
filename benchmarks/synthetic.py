"""Checkpoints of full size with random weights, for measuring time and memory.

Sizes are those of the Phi-3 family. The weights have the features of trained ones: rows and columns
of different strength, heavy tails, a few input channels far above the rest. Projections back into
the residual stream are scaled down with depth, so that activations neither vanish nor overflow. The
tokenizer is phi3-tiny's; token ids beyond its vocabulary are never used.

    python benchmarks/synthetic.py -o build/synthetic-mini                 7.6 GB, all 32 layers
    python benchmarks/synthetic.py --shape medium-4k --layers 2 -o build/synthetic-medium
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from phi3quant.cli.progress import progress_bars
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.tensor_stream import SafetensorsStream, TensorSpec
from phi3quant.model.architecture import BLOCK_TENSORS, EMBEDDING, FINAL_NORM, HEAD, tensor_shapes
from phi3quant.model.config import Phi3Config, parse_config
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import FILES

_LONG = {
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + 0.02 * pair for pair in range(48)],
        "long_factor": [1.0 + 1.3 * pair for pair in range(48)],
    },
}
_MINI: Mapping[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "mini-4k": _MINI,
    # Narrower models, to measure how cost grows with width.
    "mini-half": {
        **_MINI,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "mini-quarter": {
        **_MINI,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    "mini-128k": {**_MINI, **_LONG},
    "medium-4k": {
        **_MINI,
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
    },
}
"""Keys of config.json for members of the family, by name."""

# One channel in this many is far larger than the rest, as in the norms of trained models.
_OUTLIERS = 400
# Size of the sum of all blocks' contributions to the residual stream, relative to the embedding.
_BLOCKS_SHARE = 3.0


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="mini-4k", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Number of layers.  [default: all]")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Device that draws the weights.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(shape: str, layers: int | None, seed: int, device: str, output: Path) -> None:
    """Write a checkpoint of the given shape with random weights to the folder OUTPUT."""
    write_checkpoint(output, shape, layers=layers, seed=seed, device=device)


def write_checkpoint(
    folder: Path, shape: str, *, layers: int | None = None, seed: int = 0, device: str = "cpu"
) -> None:
    """Write a BF16 checkpoint, one tensor in memory at a time; each device draws other weights."""
    raw = json.loads((bundled_folder() / "config.json").read_text(encoding="utf-8"))
    raw |= {**SHAPES[shape], "_name_or_path": f"synthetic-{shape}", "torch_dtype": "bfloat16"}
    if layers is not None:
        raw["num_hidden_layers"] = layers
    config = parse_config(raw)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    for name in FILES:
        if (bundled_folder() / name).is_file():
            shutil.copyfile(bundled_folder() / name, folder / name)
    generator = torch.Generator(device).manual_seed(seed)
    shapes = tensor_shapes(config)
    specs = [TensorSpec(name, torch.bfloat16, size) for name, size in shapes.items()]
    with (
        progress_bars(quiet=False)("writing", len(specs)) as step,
        completed(SafetensorsStream(folder, specs)) as stream,
    ):
        for spec in specs:
            stream.write(spec.name, _tensor(spec, config, generator).bfloat16().cpu())
            step()


def _tensor(spec: TensorSpec, config: Phi3Config, generator: torch.Generator) -> torch.Tensor:
    if len(spec.shape) == 1:
        return _norm(spec.shape[0], generator)
    weight = torch.randn(spec.shape, generator=generator, device=generator.device)
    # x * (1 + x^2 / 10) with a normal x has heavy tails like trained weights.
    weight *= 1 + 0.1 * weight.square()
    rows = torch.randn(spec.shape[0], 1, generator=generator, device=generator.device)
    weight *= torch.exp(0.3 * rows)
    return weight.mul_(_spread(spec.name, config))


def _norm(width: int, generator: torch.Generator) -> torch.Tensor:
    device = generator.device
    weight = torch.exp(0.3 * torch.randn(width, generator=generator, device=device))
    outliers = torch.randperm(width, generator=generator, device=device)[
        : max(1, width // _OUTLIERS)
    ]
    weight[outliers] *= 12
    return weight


def _spread(name: str, config: Phi3Config) -> float:
    """Standard deviation that keeps activations of order one through all blocks."""
    if name in (EMBEDDING, FINAL_NORM, HEAD):
        return 1.0 if name == EMBEDDING else 1 / math.sqrt(config.hidden_size)
    back = [BLOCK_TENSORS[key].name for key in ("o_proj", "down_proj")]
    width = config.intermediate_size if name.endswith(back[1]) else config.hidden_size
    share = _BLOCKS_SHARE / math.sqrt(2 * config.num_hidden_layers)
    return (share if name.endswith(tuple(back)) else 0.5) / math.sqrt(width)


if __name__ == "__main__":
    main()
