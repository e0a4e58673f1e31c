"""Runs inside AutoAWQ's own environment: quantize a model on given token windows.

Called by benchmarks/autoawq.py. On a CPU, AutoAWQ 0.2.9 keeps the weights that its scale search
must restore in a state dict made with ``.cpu()``, which copies nothing there, so the search eats
the model. That one line is repaired below (``.clone()``); everything else is AutoAWQ as published.
"""

import argparse
import inspect
import json
from pathlib import Path

import torch
from awq import AutoAWQForCausalLM
from awq.quantize import quantizer
from transformers import AutoTokenizer

_BROKEN = "{k: v.cpu() for k, v in module2inspect.state_dict().items()}"
_REPAIRED = "{k: v.cpu().clone() for k, v in module2inspect.state_dict().items()}"


def repair_restore() -> None:
    """Make the scale search restore what it changed."""
    import textwrap  # noqa: PLC0415 - only this function's business

    name = "_compute_best_scale"
    method = getattr(quantizer.AwqQuantizer, name)
    source = textwrap.dedent(inspect.getsource(method))
    if _BROKEN not in source:
        raise SystemExit("AutoAWQ has changed: the line to repair is not there")
    scope = dict(vars(quantizer))
    exec(source.replace(_BROKEN, _REPAIRED), scope)  # noqa: S102 - AutoAWQ's own source
    setattr(quantizer.AwqQuantizer, name, scope[name])


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
