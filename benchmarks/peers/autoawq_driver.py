"""Driver for AutoAWQ, run in its own environment: quantizes a model on token windows.

Two bugs of AutoAWQ 0.2.9 are repaired below, because they make its result unusable; everything else
is AutoAWQ as published. First, its scale search saves the weights to restore with ``.cpu()``, which
doesn't copy on a CPU, so the search destroys the model. Second, in a Phi-3 with grouped query
attention it folds the scales of o_proj's input into the last rows of qkv_proj, which include rows
of keys and queries. That fold is left out, as AutoAWQ does for Llama.
"""

import inspect
import textwrap
from typing import Any

import numpy as np
import torch
from awq import AutoAWQForCausalLM
from awq.models.phi3 import Phi3AWQForCausalLM
from awq.quantize import quantizer
from transformers import AutoTokenizer

from benchmarks.peers.plain import parse_job

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
    given = parse_job()
    repair_restore()
    windows = np.load(given.windows)[: given.settings.get("samples")].tolist()
    # The default, FP16, is emulated on most CPUs and many times slower than FP32.
    model = AutoAWQForCausalLM.from_pretrained(
        str(given.model), device_map="cpu", safetensors=True, torch_dtype=torch.float32
    )
    sizes = model.model.config
    skip_wrong_fold(grouped=sizes.num_key_value_heads != sizes.num_attention_heads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model.quantize(
        tokenizer,
        quant_config={
            "zero_point": True,
            "q_group_size": given.settings["group_size"],
            "w_bit": 4,
            "version": "GEMM",
        },
        calib_data=windows,
        max_calib_samples=len(windows),
        max_calib_seq_len=len(windows[0]),
    )
    model.save_quantized(str(given.artifact))
    tokenizer.save_pretrained(str(given.artifact))


if __name__ == "__main__":
    main()
