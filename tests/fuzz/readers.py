"""The table of readers: valid files for each, ways to spoil them, commands that read them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from phi3quant.cli.main import main
from phi3quant.run import block_record
from tests.fuzz.mutations import (
    Spoil,
    spoil_baseline,
    spoil_bytes,
    spoil_gguf,
    spoil_json,
    spoil_lines,
    spoil_onnx,
    spoil_record,
    spoil_safetensors,
)
from tests.models import PROSE, make_model, split_copy

Words = Sequence[str]

_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_CARD = (
    "---\nlicense: mit\ndatasets: [a, b]\nbase_model:\n- microsoft/Phi-3-mini-4k-instruct\n---\n"
    "# Phi-3\n\n| layers, heads | 2, 4 |\n|---|---|\n| parameters | 0.1M |\n\nA file of 0.41 MB.\n"
)
_GRID = (
    'models = ["a", {name = "b", adapters = ["c"]}]\n[text]\nwindow = 16\n[[recipes]]\n'
    'method = "rtn"\ngroup-size = [32, "row"]\nsym = [true]\nexport = ["gguf"]\n'
)
_SCORE = ("perplexity", "{m}", "--text", "{base}/text.txt", "--window", "16", "--max-tokens", "64")
_INSPECT: Words = ("inspect", "{m}", "--json")
_RTN: Words = (
    "rtn",
    "{m}",
    "-o",
    "{work}/o",
    "--no-verify",
    "--export",
    "compressed-tensors,gguf,onnx",
)
_GENERATE: Words = ("generate", "{m}", "Hello there", "--max-new-tokens", "2")
_COMPARE: Words = ("compare", "{base}/plain", "{m}", "--no-score")
_VERIFY: Words = ("verify", "{m}")
_REPORT: Words = ("report", "{m}", "--no-score", "--json")
_EXPORT: Words = ("export", "gguf", "{m}", "-o", "{work}/o", "--no-verify")
_WEIGHTED: Words = (
    *("export", "gguf", "{base}/plain", "--type", "q4_0", "--imatrix", "{m}"),
    *("-o", "{work}/o", "--no-verify"),
)
_CONVERT: Words = ("export", "awq-gemm", "{m}", "-o", "{work}/o", "--no-verify")
_DEQUANTIZE: Words = ("export", "safetensors", "{m}", "-o", "{work}/o", "--no-verify")
_ESTIMATE: Words = ("estimate", "{m}", "--json")
_AUDIT: Words = ("audit", "{m}", "--json")
_SHOW: Words = ("baseline", "show", "{m}")
_CHECK: Words = ("check", "{base}/awq", "--baseline", "{m}")
_ADAPTED: Sequence[Words] = (
    ("perplexity", "{base}/plain", "--adapter", "{m}", *_SCORE[2:]),
    ("rtn", "{base}/split", "--adapter", "{m}=0.5", "-o", "{work}/o", "--no-verify"),
    ("estimate", "{base}/plain", "--adapter", "{m}", "--json"),
)
_READ_TEXT: Words = ("perplexity", "{base}/plain", "--text", "{m}", *_SCORE[4:])
_RESUME: Words = (
    *("awq", "{base}/plain", "-o", "{m}/out", "--samples", "4", "--seq-len", "32", "--no-verify"),
    *("--calib", "{base}/text.txt", "--threads", "1", "--resume"),
)
_SWEPT: Words = (
    *("--models", "{base}/plain", "--text", "{base}/text.txt", "--window", "16"),
    *("--max-tokens", "64", "--threads", "1"),
)
_SWEEP: Words = ("sweep", "{m}", "-o", "{work}/o", *_SWEPT)
# With one recipe more than there are results, so that the original's predictions are read too.
_SWEEP_AGAIN: Words = ("sweep", "{base}/more.toml", "-o", "{m}", *_SWEPT)


@dataclass(frozen=True)
class Reader:
    """Something that reads files from outside.

    Attributes:
        files: of the base that are copied: a folder or a file.
        spoiled: pattern of the files of which one is spoiled.
        spoil: how.
        commands: of which one reads it. ``{m}`` is the copy, ``{base}`` the folder of valid files,
            ``{work}`` an empty folder.
    """

    files: str
    spoiled: str
    spoil: Spoil
    commands: Sequence[Words]


_PLAIN: Sequence[Words] = (_INSPECT, _SCORE, _RTN, _GENERATE, _COMPARE, _ESTIMATE, _AUDIT)
_QUANTIZED: Sequence[Words] = (_INSPECT, _SCORE, _COMPARE, _VERIFY, _REPORT, _AUDIT)
_PACKED: Sequence[Words] = (*_QUANTIZED, _EXPORT, _CONVERT, _DEQUANTIZE)
READERS: Mapping[str, Reader] = {
    "config": Reader("plain", "config.json", spoil_json, _PLAIN),
    "llama config": Reader("split", "config.json", spoil_json, _PLAIN),
    "split tensors": Reader("split", "model.safetensors", spoil_safetensors, _PLAIN),
    "adapter config": Reader("adapter", "adapter_config.json", spoil_json, _ADAPTED),
    "adapter": Reader("adapter", "adapter_model.safetensors", spoil_safetensors, _ADAPTED),
    "index": Reader("sharded", "model.safetensors.index.json", spoil_json, _PLAIN),
    "safetensors": Reader("plain", "model.safetensors", spoil_safetensors, _PLAIN),
    "tokenizer": Reader("plain", "tokenizer.json", spoil_json, _PLAIN),
    "tokenizer config": Reader("plain", "tokenizer_config.json", spoil_json, _PLAIN),
    "template": Reader("plain", "chat_template.jinja", spoil_bytes, _PLAIN),
    "card": Reader("plain", "README.md", spoil_bytes, (_AUDIT,)),
    "packed": Reader("awq", "config.json", spoil_json, _PACKED),
    "packed tensors": Reader("awq", "model.safetensors", spoil_safetensors, _PACKED),
    "gptq": Reader("gptq", "config.json", spoil_json, _PACKED),
    "gptq tensors": Reader("gptq", "model.safetensors", spoil_safetensors, _PACKED),
    "mixed": Reader("mixed", "config.json", spoil_json, _PACKED),
    "mixed gptq": Reader("mixed/gptq", "config.json", spoil_json, _PACKED),
    "mixed gptq tensors": Reader("mixed/gptq", "model.safetensors", spoil_safetensors, _PACKED),
    "mixed mlx": Reader("mixed/mlx", "config.json", spoil_json, _PACKED),
    "3 bits": Reader("narrow", "config.json", spoil_json, _PACKED),
    "3 bits tensors": Reader("narrow", "model.safetensors", spoil_safetensors, _PACKED),
    "3 bits mlx": Reader("narrow/mlx", "model.safetensors", spoil_safetensors, _PACKED),
    "mlx": Reader("mlx", "config.json", spoil_json, _PACKED),
    "mlx tensors": Reader("mlx", "model.safetensors", spoil_safetensors, _PACKED),
    "gguf": Reader("gguf", "*.gguf", spoil_gguf, (*_PACKED, _GENERATE)),
    "imatrix": Reader("i.gguf", "i.gguf", spoil_gguf, (_WEIGHTED,)),
    "onnx": Reader("onnx", "model.onnx", spoil_onnx, (*_PACKED, _GENERATE)),
    "onnx settings": Reader("onnx", "*.json", spoil_json, _QUANTIZED),
    "manifest": Reader("awq", "phi3quant.json", spoil_json, (*_QUANTIZED, _EXPORT)),
    "baseline": Reader("b.baseline", "b.baseline", spoil_baseline, (_SHOW, _CHECK)),
    "journal": Reader("j", ".out.unfinished/*", spoil_record, (_RESUME,)),
    "jsonl": Reader("text.jsonl", "text.jsonl", spoil_lines, (_READ_TEXT,)),
    "json": Reader("text.json", "text.json", spoil_json, (_READ_TEXT,)),
    "chats": Reader("chats.jsonl", "chats.jsonl", spoil_lines, (_READ_TEXT,)),
    "text": Reader("text.txt", "text.txt", spoil_bytes, (_READ_TEXT,)),
    "outcome": Reader("sweep", "outcomes/*.json", spoil_json, (_SWEEP_AGAIN,)),
    "original": Reader("sweep", "originals/*.json", spoil_json, (_SWEEP_AGAIN,)),
    "states": Reader("sweep", "originals/*.safetensors", spoil_safetensors, (_SWEEP_AGAIN,)),
    "grid": Reader("grid.toml", "grid.toml", spoil_bytes, (_SWEEP,)),
    "parquet": Reader("text.parquet", "text.parquet", spoil_bytes, (_READ_TEXT,)),
}
"""Readers by the name that ``--reader`` takes."""


def make_base(base: Path) -> None:
    """Write valid files of every kind."""
    from pyarrow import parquet, table

    plain, text = base / "plain", base / "text.txt"
    make_model(plain)
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "model_max_length": 10**30}
    (plain / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (plain / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    (plain / "README.md").write_text(_CARD, encoding="utf-8")
    split_copy(plain, base / "split")
    _write_adapter(base / "adapter")
    shutil.copytree(plain, base / "sharded")
    weights = base / "sharded" / "model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00001.safetensors"))
    _write_index(base / "sharded")
    text.write_text(PROSE, encoding="utf-8")
    paragraphs = PROSE.split("\n\n")
    lines = "\n".join(json.dumps({"text": paragraph}) for paragraph in paragraphs)
    (base / "text.jsonl").write_text(lines, encoding="utf-8")
    (base / "text.json").write_text(json.dumps(_chats(paragraphs)), encoding="utf-8")
    lines = "\n".join(map(json.dumps, _chats(paragraphs)))
    (base / "chats.jsonl").write_text(lines, encoding="utf-8")
    (base / "grid.toml").write_text(_GRID, encoding="utf-8")
    (base / "more.toml").write_text(_GRID.replace("[true]", "[true, false]"), encoding="utf-8")
    parquet.write_table(table({"text": paragraphs}), base / "text.parquet")
    short = ("--threads", "1", "--no-verify", "-q")
    calibration = ("--samples", "4", "--seq-len", "32", "--calib", str(text), *short)
    _run("awq", str(plain), "-o", str(base / "awq"), *calibration)
    _run_until_a_block("awq", str(plain), "-o", str(base / "j" / "out"), *calibration)
    _run("imatrix", str(plain), "-o", str(base / "i.gguf"), *calibration[:6], "-q")
    _run("rtn", str(plain), "-o", str(base / "gguf"), "--export", "gguf", *short)
    _run("rtn", str(plain), "-o", str(base / "gptq"), "--export", "gptq", *short)
    _run("rtn", str(plain), "-o", str(base / "mlx"), "--export", "mlx", *short)
    narrow = ("--bits", "3", "--export", "gptq,mlx")
    _run("rtn", str(plain), "-o", str(base / "narrow"), *narrow, *short)
    mixed = ("--tensor-type", "down_proj=int8", "--export", "compressed-tensors,gptq,mlx")
    _run("rtn", str(plain), "-o", str(base / "mixed"), *mixed, *short)
    _run("rtn", str(plain), "-o", str(base / "onnx"), "--export", "onnx", *short)
    words = ("--window", "16", "--max-tokens", "128", "--reference", str(plain), "-q")
    there = [word.format(base=base) for word in _SWEPT]
    _run("sweep", str(base / "grid.toml"), "-o", str(base / "sweep"), *there, "-q")
    _run("baseline", "create", str(base / "awq"), "-o", str(base / "b.baseline"), *words)


def _write_adapter(folder: Path) -> None:
    """A DoRA adapter of three modules with two ranks."""
    shapes = {"self_attn.o_proj": (64, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96)}
    ranks = {"mlp.down_proj": 3}
    tensors = {}
    for name, (rows, columns) in shapes.items():
        module, rank = f"base_model.model.model.layers.0.{name}", ranks.get(name, 2)
        tensors[f"{module}.lora_A.weight"] = torch.ones(rank, columns) * 0.01
        tensors[f"{module}.lora_B.weight"] = torch.ones(rows, rank)
        tensors[f"{module}.lora_magnitude_vector"] = torch.ones(rows)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True, "bias": "none"}
    settings |= {"rank_pattern": ranks, "init_lora_weights": True, "target_modules": list(shapes)}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _chats(paragraphs: Sequence[str]) -> list[dict[str, object]]:
    """Records of every form, in turn."""
    part = {"type": "text", "text": "Look:"}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    records: list[dict[str, object]] = []
    for text in paragraphs:
        user = {"role": "user", "content": text}
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        seen = {"role": "user", "content": [part, {"type": "image_url", "image_url": {}}]}
        records += [
            {"messages": [user, called], "tools": [{"name": "look"}], "documents": [{"text": "a"}]},
            {"messages": [user, seen], "chat_template_kwargs": {"thinking": True}},
            {"conversations": [{"from": "human", "value": text}], "system": "Be brief."},
            {"instruction": "Go on.", "input": text, "output": "So.", "history": [["a", "b"]]},
            {"prompt": text, "completion": "End."},
        ]
    return records


def _write_index(folder: Path) -> None:
    from safetensors import safe_open

    (shard,) = folder.glob("*.safetensors")
    with safe_open(shard, framework="pt") as opened:
        weight_map = dict.fromkeys(opened.keys(), shard.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _run(*words: str) -> None:
    result = CliRunner().invoke(main, words)
    if result.exit_code:
        raise RuntimeError(f"{' '.join(words)}: {result.output}") from result.exception


def _run_until_a_block(*words: str) -> None:
    """Run a command that is interrupted once a block is finished."""

    def write(path: Path, *given: object) -> None:
        if path.name != "block-00000.safetensors":
            raise KeyboardInterrupt
        block_record.write_record(path, *given)  # type: ignore[arg-type]

    with mock.patch("phi3quant.run.journal.write_record", write):
        CliRunner().invoke(main, words)
