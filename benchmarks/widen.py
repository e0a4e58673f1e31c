"""The real model with rows of whole superblocks, which Q3_K, Q4_K and IQ4_XS require.

The hidden size grows from 576 to 768: every superblock of 256 gets 192 channels and 64 zeros. Heads
of zeros keep the head size. Zero channels stay zero in all blocks. The norms' weights and epsilon
are scaled to the larger number of channels, so that the model computes the same function, except
that the scaled weights are rounded to FP16.

    python -m benchmarks.widen models/real -o build/widened
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import torch

from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.output import write_json
from phi3quant.disk.tensor_stream import SafetensorsStream, TensorSpec
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config, parse_config
from phi3quant.quant.codecs.ggml_error_weights import SUPER
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.tokenizer import FILES

# Axes of the tensors that grow; see _places.
_AXES: Mapping[str, tuple[str, ...]] = {
    "input_layernorm": ("hidden",),
    "qkv_proj": ("heads", "hidden"),
    "o_proj": ("hidden", "queries"),
    "post_attention_layernorm": ("hidden",),
    "gate_up_proj": ("gates", "hidden"),
    "down_proj": ("hidden", "inner"),
}


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(model: Path, output: Path) -> None:
    """Write MODEL with rows of whole superblocks to the folder OUTPUT."""
    write_widened(model, output)


def write_widened(model: Path, output: Path) -> None:
    """Write an FP16 checkpoint of the same function as the tied model ``model``."""
    source = open_checkpoint(model)
    config = source.config
    wide = parse_config(_raw(config))
    growth = math.sqrt(config.hidden_size / wide.hidden_size)
    places, shapes, axes = _places(config, wide), tensor_shapes(wide), _axes(config)
    output.mkdir(parents=True)
    write_json(output / "config.json", dict(wide.raw))
    for name in FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)
    specs = [TensorSpec(name, torch.float16, shape) for name, shape in shapes.items()]
    with completed(SafetensorsStream(output, specs)) as stream:
        for name, shape in shapes.items():
            tensor = source.store.load(name).float()
            if tensor.dim() == 1:
                tensor *= growth
            grid = torch.meshgrid(*(places[axis] for axis in axes[name]), indexing="ij")
            stream.write(name, torch.zeros(shape).index_put(grid, tensor).half())


def _raw(config: Phi3Config) -> dict[str, object]:
    """Content of the wide model's config.json."""
    unit = math.lcm(SUPER, config.head_dim * config.queries_per_key_value)
    hidden = unit * math.ceil(config.hidden_size / unit)
    heads = hidden // config.head_dim
    return {
        **config.raw,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // config.queries_per_key_value,
        "rms_norm_eps": config.rms_norm_eps * config.hidden_size / hidden,
    }


def _places(config: Phi3Config, wide: Phi3Config) -> Mapping[str, torch.Tensor]:
    """Places along the wide model's axes of what the model has, int64, by axis."""
    superblocks = wide.hidden_size // SUPER
    in_each = torch.arange(config.hidden_size).view(superblocks, -1)
    starts = SUPER * torch.arange(superblocks)[:, None]
    queries, keys = torch.arange(config.query_rows), torch.arange(config.key_value_rows)
    values = wide.query_rows + wide.key_value_rows + keys
    return {
        "vocabulary": torch.arange(config.vocab_size),
        "hidden": (starts + in_each - in_each[:, :1]).flatten(),
        "queries": queries,
        "heads": torch.cat([queries, wide.query_rows + keys, values]),
        "gates": torch.arange(2 * config.intermediate_size),
        "inner": torch.arange(config.intermediate_size),
    }


def _axes(config: Phi3Config) -> Mapping[str, tuple[str, ...]]:
    """Axes of every tensor by its name in the checkpoint."""
    blocks = {
        block_tensor_name(index, key): _AXES[key]
        for index in range(config.num_hidden_layers)
        for key in BLOCK_TENSORS
    }
    return {EMBEDDING: ("vocabulary", "hidden"), **blocks, FINAL_NORM: ("hidden",)}


if __name__ == "__main__":
    main()
