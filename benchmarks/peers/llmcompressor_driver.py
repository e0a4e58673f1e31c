"""Driver for llm-compressor, run in its own environment: quantizes a model on token windows.

It saves a compressed-tensors folder, which phi3quant can read.
"""

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.plain import parse_job


def main() -> None:
    """Quantize and save."""
    given = parse_job()
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": given.settings["group_size"],
        "symmetric": given.settings["symmetric"],
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    scheme = {"config_groups": groups, "ignore": ["lm_head"]}
    recipes = {
        "gptq": lambda: [GPTQModifier(**scheme)],
        "awq": lambda: [AWQModifier(), QuantizationModifier(**scheme)],
    }
    windows = np.load(given.windows)
    model = AutoModelForCausalLM.from_pretrained(
        given.model, dtype=getattr(torch, given.settings.get("dtype", "float32"))
    )
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_dict(
            {"input_ids": windows.tolist(), "attention_mask": np.ones_like(windows).tolist()}
        ),
        recipe=recipes[given.settings["method"]](),
        max_seq_length=windows.shape[1],
        num_calibration_samples=len(windows),
        shuffle_calibration_samples=False,
    )
    # Scales keep the dtype of the computation; deployed models have them in FP16.
    model.half()
    model.save_pretrained(given.artifact, save_compressed=True)
    tokenizer.save_pretrained(given.artifact)


if __name__ == "__main__":
    main()
