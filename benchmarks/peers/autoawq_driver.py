"""Runs inside AutoAWQ's own environment: quantize a model on given token windows.

Called by benchmarks/autoawq.py. Two things in AutoAWQ 0.2.9 are repaired below, without which its
result is no model at all; everything else is AutoAWQ as published. On a CPU it keeps the weights
that its scale search must restore in a state dict made with ``.cpu()``, which copies nothing there,
so the search eats the model. And of a Phi-3 with grouped query attention it folds the scales of
o_proj's input into the last rows of qkv_proj, which are then keys and queries too; that fold is
left out, as AutoAWQ itself does for Llama.
"""

import argparse
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from awq import AutoAWQForCausalLM
from awq.models.phi3 import Phi3AWQForCausalLM
from awq.quantize import quantizer
from transformers import AutoTokenizer

_BROKEN = "{k: v.cpu() for k, v in module2inspect.state_dict().items()}"
_REPAIRED = "{k: v.cpu().clone() for k, v in module2inspect.state_dict().items()}"


def repair_restore() -> None:
    """Make the scale search restore what it changed."""
    name = "_compute_best_scale"
    method = getattr(quantizer.AwqQuantizer, name)
    source = textwrap.dedent(inspect.getsource(method))
    if _BROKEN not in source:
        raise SystemExit("AutoAWQ has changed: the line to repair is not there")
    scope = dict(vars(quantizer))
    exec(source.replace(_BROKEN, _REPAIRED), scope)  # noqa: S102 - AutoAWQ's own source
    setattr(quantizer.AwqQuantizer, name, scope[name])


def skip_wrong_fold(*, grouped: bool) -> None:
    """Leave out the fold into o_proj where it isn't exact."""
    if not grouped:
        return
    published = Phi3AWQForCausalLM.get_layers_for_scaling

    def exact_only(*given: Any) -> list[dict[str, Any]]:
        entries = published(*given)
        attention = given[0].self_attn
        return [entry for entry in entries if entry["prev_op"] is not attention.qkv_proj]

    Phi3AWQForCausalLM.get_layers_for_scaling = staticmethod(exact_only)


def main() -> None:
    """Quantize and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--windows", required=True, help="JSON: a list of lists of token ids")
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    repair_restore()
    windows = json.loads(Path(given.windows).read_text(encoding="utf-8"))
    # Its default, FP16, is an emulation on most CPUs and many times slower there than FP32.
    model = AutoAWQForCausalLM.from_pretrained(
        given.model, device_map="cpu", safetensors=True, torch_dtype=torch.float32
    )
    sizes = model.model.config
    skip_wrong_fold(grouped=sizes.num_key_value_heads != sizes.num_attention_heads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model.quantize(
        tokenizer,
        quant_config={
            "zero_point": True,
            "q_group_size": given.group_size,
            "w_bit": 4,
            "version": "GEMM",
        },
        calib_data=windows,
        max_calib_samples=len(windows),
        max_calib_seq_len=len(windows[0]),
    )
    model.save_quantized(given.output)
    tokenizer.save_pretrained(given.output)


if __name__ == "__main__":
    main()
