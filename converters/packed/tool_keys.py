"""Keys that AutoAWQ, AutoGPTQ, GPTQModel and AutoRound share in a ``quantization_config``."""

from collections.abc import Mapping
from typing import Any

AUTOROUND = "auto-round"
"""AutoRound's ``quant_method``; its ``packing_format`` names the layout."""

QUANTIZER_KEYS = (
    "act_data_type",
    "act_dynamic",
    "act_group_aware",
    "act_group_size",
    "act_sym",
    "amp",
    "autoround_version",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "enable_minmax_tuning",
    "enable_norm_bias_tuning",
    "enable_quanted_input",
    "enable_torch_compile",
    "gradient_accumulate_steps",
    "iters",
    "low_gpu_mem_usage",
    "lr",
    "max_input_length",
    "method",
    "minmax_lr",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "mse",
    "nsamples",
    "pad_token_id",
    "provider",
    "quant_block_list",
    "scale_dtype",
    "seqlen",
    "static_groups",
    "supported_types",
    "to_quant_block_names",
    "tokenizer",
    "true_sequential",
)
"""Keys that record how the codes were chosen; stored weights don't depend on them."""

PLAIN_WEIGHTS: Mapping[str, tuple[Any, ...]] = {
    "act_bits": (16, None),
    "lm_head": (False, None),
    "pack_dtype": ("int32", None),
    "data_type": ("int", None),
    "dynamic": (None, {}),
    "extra_config": (None, {}),
    "regex_config": (None, {}),
    "rotation_configs": (None, []),
    "static_attention_dtype": (None,),
    "static_kv_dtype": (None,),
    "super_bits": (None,),
    "super_group_size": (None,),
    "adapter": (None,),
}
"""Keys that change weights or activations, with the values that leave them as they are."""
