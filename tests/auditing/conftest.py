"""A small checkpoint that looks like a published model, with a card, to be spoiled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3quant.estimating import members
from tests.models import BASE

MEDIUM = {**BASE, "model_type": "phi3", "num_hidden_layers": 3}

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any person ..."
CARD = """---
license: mit
base_model: microsoft/Phi-3-mini-4k-instruct
datasets:
- someone/stories
version: "1.2"
---
# Phi-3-mini-4k-tuned

The model has {parameters} parameters.

| | |
|---|---|
| layers, hidden size | 2, 64 |
| heads, key/value heads | 4, 2 |
| vocabulary | 320 |
| context length | 256 tokens |

The weights are a download of {size} MB. It runs in 1 GB of memory.

## Training

* GPUs: 8 A100
* Training time: 2 days
* Training data: 3.2M tokens of stories

## Evaluation

| task | 5-shot |
|---|---|
| riddles | 51.3 |
"""


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published members as small as the models of the tests."""
    small = {
        "phi-3-mini-4k": {"aliases": ["phi-3-mini"], "config": {**BASE, "model_type": "phi3"}},
        "phi-3-medium-4k": {"aliases": ["phi-3-medium"], "config": MEDIUM},
    }
    monkeypatch.setattr(members, "family", lambda: small)


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path], family: None) -> Path:
    """A checkpoint whose card, licence, template and tokens agree with its weights."""
    del family
    path = tmp_path / "Phi-3-mini-4k-tuned"
    shutil.copytree(checkpoint_folder("gqa"), path)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    write_json(path / "tokenizer_config.json", settings)
    write_json(path / "generation_config.json", {"eos_token_id": [2, 6]})
    (path / "LICENSE").write_text(MIT, encoding="utf-8")
    size = (path / "model.safetensors").stat().st_size / 1e6
    (path / "README.md").write_text(
        CARD.format(parameters="102,720", size=f"{size:.2f}"), encoding="utf-8"
    )
    return path


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def replace_in(path: Path, before: str, after: str) -> None:
    """Replace a text that the file must contain."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
