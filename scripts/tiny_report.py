"""Evaluation of the bundled model and its model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # transformers' models and tokenizers are only partly typed

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

Ids = NDArray[np.int64]
Real = NDArray[np.float64]
_QUESTION = "What is the opposite of hot?"
_OPENING = "Nora was a patient clockmaker from Millbrook. Nora owned a small red key and kept it in"
_CARD = """# phi3-tiny

A very small language model with the architecture of Phi-3, made to try and to test quantization
without downloading anything. It knows simple made-up English: stories about lost keys, letters,
sums, lists, records and short chats. Its sentences are well formed and its answers end where they
should, but it mixes up names and objects, its sums are mostly wrong, and it knows next to nothing
about the real world.

| | |
|---|---|
| parameters | {parameters:,} |
| layers, hidden size | 4, 256 |
| heads, key/value heads | 4, 2 |
| vocabulary | 2048 (2000 SentencePiece BPE pieces, Phi-3's added tokens, fillers) |
| context | 1024 tokens, sliding window 255; trained on sequences of 512 |
| weights | FP16, safetensors |

## How it was made

`python scripts/train_tiny.py --seed {seed} --steps {steps}` makes every file in this folder. The
text comes from a seeded grammar (`scripts/tiny_text.py`); all its phrases were written for this
project. The model saw {tokens:,} tokens of fresh text (AdamW, cosine schedule, BF16 products with
FP32 weights), and was then rounded to FP16.

## Perplexity per token

On {held_out:,} tokens of held-out text (another seed), in windows of 512 tokens:

| model | perplexity |
|---|---|
| phi3-tiny (FP16 weights) | {model:.3f} |
| bigrams, interpolated | {bigram:.2f} |
| unigrams | {unigram:.1f} |

Both baselines were counted on the training tokens.

## Samples (greedy)

A chat through the chat template:

```
{chat}
```

A story, continued:

```
{story}
```
"""


@dataclass(frozen=True)
class Samples:
    """Texts that the model wrote, prompts included."""

    chat: str
    story: str


def model_perplexity(model: Any, windows: Ids) -> float:
    """Perplexity per token over windows (n, length), each predicted from its second token on."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(windows), 8):
            row = torch.from_numpy(windows[start : start + 8])
            logits = model(input_ids=row, use_cache=False).logits[:, :-1].double()
            target = row[:, 1:].reshape(-1)
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), target, reduction="sum"
            )
            total += loss.item()
    return float(np.exp(total / (windows.size - len(windows))))


def _perplexity(probabilities: Real) -> float:
    return float(np.exp(-np.log(probabilities).mean()))


def baselines(pairs: Ids, tune: Ids, test: Ids) -> tuple[float, float]:
    """Perplexities of the unigrams and of the bigrams counted in `pairs` (vocab, vocab).

    Unigrams are smoothed by adding one; the weight of the bigrams is chosen on `tune`.
    """
    counts = pairs.sum(axis=0) + 1.0
    unigram = counts / counts.sum()
    bigram = pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1)

    def mixed(windows: Ids, weight: float) -> Real:
        before, after = windows[:, :-1].ravel(), windows[:, 1:].ravel()
        found: Real = weight * bigram[before, after] + (1 - weight) * unigram[after]
        return found

    weights = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998]
    best = min(weights, key=lambda weight: _perplexity(mixed(tune, weight)))
    return _perplexity(mixed(test, 0.0)), _perplexity(mixed(test, best))


def _continue(model: Any, tokenizer: Any, prompt: str, count: int) -> str:
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    mask = torch.ones_like(ids)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=count, do_sample=False,
        eos_token_id=[2000, 2001, 2007], pad_token_id=2000,
    )  # fmt: skip
    return prompt + str(tokenizer.decode(out[0, ids.shape[1] - 1 :])).removeprefix(
        str(tokenizer.decode(ids[0, -1:]))
    )


def samples(model: Any, folder: Path) -> Samples:
    """Greedy answers to a chat prompt and to the opening of a story."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": _QUESTION}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return Samples(
        _continue(model, tokenizer, prompt, 80).replace("|>\n ", "|>\n"),
        _continue(model, tokenizer, _OPENING, 160),
    )


def write_card(folder: Path, facts: Mapping[str, float | int], found: Samples) -> None:
    """Write the model card with the measured numbers."""
    card = _CARD.format(**facts, chat=found.chat, story=found.story)
    (folder / "README.md").write_text(card, encoding="utf-8")
