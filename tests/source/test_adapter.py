"""Adapters merged while a checkpoint is read give the logits of PEFT."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from converters import open_weights
from phi3quant.errors import AdapterError, CheckpointError, DamagedError
from phi3quant.source.adapter_reference import parse_adapter, recorded_adapters
from phi3quant.source.locate import locate
from tests.converters.spoiled import IDS, configure, copy_of, edit
from tests.models import own_logits, split_copy, split_matrices

ALL = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    """A copy that a test may change."""
    return copy_of(checkpoint_folder("gqa"), tmp_path / "model")


def make_adapter(base: Path, folder: Path, seed: int = 5, **settings: Any) -> Path:
    """Save an adapter of ``base`` whose matrices are all random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    kinds = {"r": 4, "lora_alpha": 12, "target_modules": ALL, **settings}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **kinds))
    for name, parameter in adapted.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= torch.rand_like(parameter) + 0.5
        elif "lora_" in name:
            parameter.data.normal_(0, 0.1)
        elif "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(str(folder))
    return folder


def peft_logits(base: Path, *adapters: Path, merge: bool = True) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter)
        model = model.merge_and_unload() if merge else model
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(IDS).logits
    return logits


def logits_with(base: Path, *adapters: str | Path) -> torch.Tensor:
    located = locate(base, adapters=adapters)
    return own_logits(open_weights(located.path, located.adapters), IDS)


KINDS: Mapping[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "DoRA, rsLoRA": {"use_dora": True, "use_rslora": True},
    "one kind of module": {"target_modules": ["o_proj"]},
    "one layer": {"layers_to_transform": [1], "target_modules": ["qkv_proj"]},
    "ranks and alphas by pattern": {
        "rank_pattern": {"o_proj": 2, "layers.1.mlp.down_proj": 7},
        "alpha_pattern": {"qkv_proj": 1, "model.layers.0.mlp.gate_up_proj": 40},
    },
    "whole head and embedding": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "whole norms": {"modules_to_save": ["input_layernorm", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "regular expression": {"target_modules": r".*\.mlp\..*_proj"},
    "orthogonal start": {"init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_has_the_logits_of_peft(folder: Path, tmp_path: Path, kind: str) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter", **KINDS[kind])
    own, expected = logits_with(folder, adapter), peft_logits(folder, adapter)
    assert (own - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (own - logits_with(folder)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "DoRA"])
@pytest.mark.parametrize("base", ["joined", "split"])
def test_an_adapter_of_split_modules_fits_both_kinds_of_base(
    folder: Path, tmp_path: Path, kind: str, base: str
) -> None:
    split = split_copy(folder, tmp_path / "split")
    targets = ["q_proj", "v_proj", "o_proj", "up_proj"]
    adapter = make_adapter(
        split, tmp_path / "adapter", **{**KINDS[kind], "target_modules": targets}
    )
    own = logits_with(folder if base == "joined" else split, adapter)
    assert (own - peft_logits(split, adapter)).abs().max() < 1e-4


def test_an_adapter_of_joined_modules_fits_a_split_base(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    expected = logits_with(folder, adapter)
    edit(folder, split_matrices)
    assert torch.equal(logits_with(folder, adapter), expected)


@pytest.mark.parametrize("kinds", [("LoRA", "LoRA"), ("LoRA", "DoRA"), ("DoRA", "whole norms")])
def test_adapters_are_merged_in_their_order(
    folder: Path, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    adapters = [
        make_adapter(folder, tmp_path / str(seed), seed, **KINDS[kind])
        for seed, kind in enumerate(kinds)
    ]
    own = logits_with(folder, *adapters)
    assert (own - peft_logits(folder, *adapters)).abs().max() < 1e-4


def test_a_weight_scales_the_change(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    doubled = make_adapter(folder, tmp_path / "doubled", lora_alpha=24)
    assert torch.equal(logits_with(folder, f"{doubled}=0.5"), logits_with(folder, adapter))


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tied_model_is_untied_as_the_adapter_was_trained(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path], target: str
) -> None:
    base = checkpoint_folder("tied")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=[target])
    own = logits_with(base, adapter)
    assert (own - peft_logits(base, adapter, merge=False)).abs().max() < 1e-4
    located = locate(base, adapters=[adapter])
    opened = open_weights(located.path, located.adapters)
    assert not opened.config.tie_word_embeddings
    assert any("stored separately" in note for note in opened.notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_other_dtypes_are_added_in_fp32(
    folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file)
    # A base in FP32 makes PEFT add in FP32 too, apart from the product itself.
    assert (logits_with(folder, adapter) - peft_logits(folder, adapter)).abs().max() < 2e-2


def inner_adapter(folder: Path, tmp_path: Path) -> Path:
    """Put an adapter into a checkpoint as in Phi-4-multimodal; returns it as a folder."""
    adapter = make_adapter(folder, tmp_path / "adapter", r=4, lora_alpha=8)
    sides = load_file(adapter / "adapter_model.safetensors")

    def put(tensors: dict[str, torch.Tensor]) -> None:
        for name in [each for each in tensors if "_proj" in each]:
            tensors[name.replace("_proj.", "_proj.base_layer.")] = tensors.pop(name)
        for name, side in sides.items():
            plain = name.removeprefix("base_model.model.").removesuffix(".weight")
            tensors[f"{plain}.vision.weight"] = side
            tensors[f"{plain}.speech.weight"] = torch.ones_like(side)

    edit(folder, put)
    configure(
        folder,
        model_type="phi4mm",
        vision_lora={"dp": 0.0, "layer": "x", "lora_alpha": 8, "r": 4},
        speech_lora={"dp": 0.0, "layer": "x", "lora_alpha": 8, "r": 3},
    )
    return adapter


def test_adapters_inside_a_checkpoint_are_chosen_by_name(folder: Path, tmp_path: Path) -> None:
    plain = copy_of(folder, tmp_path / "plain")
    adapter = inner_adapter(folder, tmp_path)
    assert torch.equal(logits_with(folder), logits_with(plain))
    assert any("vision, speech" in note for note in open_weights(folder).notes)
    assert torch.equal(logits_with(folder, "vision"), logits_with(plain, adapter))
    assert torch.equal(logits_with(folder, "vision=0.5"), logits_with(plain, f"{adapter}=0.5"))
    with pytest.raises(AdapterError, match=r"\[64, 4\]; .* call for \[64, 3\]"):
        logits_with(folder, "speech")
    with pytest.raises(AdapterError, match="no adapter of that name, only vision, speech"):
        logits_with(folder, "hearing")


def settings(**changes: Any) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        stored = load_file(file)
        change(stored)
        save_file(stored, file)

    return apply


FIRST = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"


def text(content: str) -> Callable[[Path], object]:
    return lambda adapter: (adapter / "adapter_config.json").write_text(content)


REFUSED: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "another method": (settings(peft_type="IA3"), "peft_type is 'IA3'"),
    "biases": (settings(bias="all"), "'bias' is 'all'"),
    "LoRA's biases": (settings(lora_bias=True), "'lora_bias' is True"),
    "layers in another order": (settings(layer_replication=[[0, 1]]), "layer_replication"),
    "tokens": (settings(trainable_token_indices=[1]), "trainable_token_indices"),
    "a later setting": (settings(use_newest=True), "'use_newest' is True"),
    "PiSSA": (settings(init_lora_weights="pissa"), "changes the base model too"),
    "OLoRA": (settings(init_lora_weights="olora"), "changes the base model too"),
    "rank": (settings(r=5), r"\[64, 4\]; the model and the adapter's settings call for \[64, 5\]"),
    "rank of a wrong type": (settings(r="4"), "r is '4'"),
    "no alpha": (settings(lora_alpha=None), "lora_alpha is None"),
    "alpha beyond FP32": (settings(lora_alpha=10**400), "that FP32 can hold"),
    "infinite alpha": (settings(lora_alpha=float("inf")), "JSON has no NaN"),
    "patterns": (settings(rank_pattern={"(a+)+$": 2}), "only names of modules"),
    "patterns of a wrong type": (settings(alpha_pattern=[1]), "must be an object"),
    "flags of a wrong type": (settings(use_dora="yes"), "use_dora is 'yes'"),
    "DoRA without norms": (settings(use_dora=True), "lora_magnitude_vector for a matrix"),
    "not JSON": (text("{"), "adapter_config.json"),
    "not an object": (text("[1]"), "adapter_config.json"),
    "no settings": (lambda a: (a / "adapter_config.json").unlink(), "so it is not an adapter"),
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), "has no adapter_model"),
    "a pickle": (
        lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"),
        "can run code",
    ),
    "half of a pair": (tensors(lambda t: t.pop(FIRST)), "has lora_B for model.layers.0"),
    "another shape": (tensors(lambda t: t.update({FIRST: torch.ones(4, 63)})), r"\[4, 63\]"),
    "integers": (tensors(lambda t: t.update({FIRST: torch.ones(4, 64).int()})), "is I32"),
    "another layer": (
        tensors(lambda t: t.update({FIRST.replace(".0.", ".2."): torch.ones(4, 64)})),
        "changes model.layers.2.self_attn.o_proj, which is not part",
    ),
    "another model": (
        tensors(lambda t: t.update({"base_model.model.h.0.c_attn.lora_A.weight": t[FIRST] + 1})),
        "changes h.0.c_attn",
    ),
    "an unknown part": (
        tensors(lambda t: t.update({FIRST.replace("lora_A.weight", "hada_w1"): t[FIRST] + 1})),
        "can't be merged here",
    ),
    "twice": (
        tensors(lambda t: t.update({FIRST.replace("A.weight", "A.default.weight"): t[FIRST] + 1})),
        "twice",
    ),
    "nothing": (tensors(lambda t: t.clear()), "has no tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_adapter_that_cant_be_merged_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    spoil, reason = REFUSED[kind]
    spoil(adapter)
    with pytest.raises(AdapterError, match=reason):
        logits_with(folder, adapter)


def test_a_truncated_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    file = make_adapter(folder, tmp_path / "adapter") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        logits_with(folder, tmp_path / "adapter")


def test_values_of_an_adapter_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    tensors(lambda t: t[FIRST].__setitem__((0, 0), float("nan")))(adapter)
    with pytest.raises(DamagedError, match=r"adapter_model\.safetensors has 1 values"):
        logits_with(folder, adapter)


def test_a_whole_module_has_no_weight(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter", **KINDS["whole norms"])
    with pytest.raises(AdapterError, match=r"replaces .* as a whole"):
        logits_with(folder, f"{adapter}=0.5")


def test_a_scaling_beyond_fp32_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"scaling of .* is 3e\+300, which doesn't fit FP32"):
        logits_with(folder, f"{adapter}=1e300")


@pytest.mark.parametrize("weight", [10**400, "1", None])
def test_adapters_of_a_manifest_that_cant_be_used_are_left_out(weight: object) -> None:
    entries = [{"name": "a", "weight": weight}, {"name": 3}, {"name": "b", "revision": 7}, "c"]
    assert [str(each) for each in recorded_adapters({"adapters": entries})] == ["b"]
    assert recorded_adapters({"adapters": entries})[0].revision is None


@pytest.mark.parametrize("text", ["lora=", "lora=x", "lora=nan", "lora=inf", "a=b=0,5"])
def test_a_weight_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(AdapterError, match="is not a number"):
        parse_adapter(text)


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "r=8").mkdir()
    assert parse_adapter(str(tmp_path / "r=8")).weight == 1
    assert parse_adapter(f"{tmp_path / 'r=8'}=2").weight == 2


def test_a_missing_adapter_is_named(folder: Path) -> None:
    with pytest.raises(AdapterError, match="there is no folder 'nowhere'"):
        logits_with(folder, "nowhere")
