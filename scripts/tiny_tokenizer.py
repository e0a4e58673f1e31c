"""The tokenizer of the bundled model: a SentencePiece BPE and its fast counterpart."""

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any  # sentencepiece and the JSON files are untyped

import sentencepiece as spm  # type: ignore[import-untyped,unused-ignore]
from tiny_text import documents
from tokenizers import Tokenizer

PIECES = 2000
VOCAB = 2048
BOS, END_OF_TEXT, ASSISTANT, END = 1, 2000, 2001, 2007
MAX_LENGTH = 1024
_ADDED = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>",
    "<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
)  # fmt: skip
_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def train_sentencepiece(path: Path, seed: int, count: int = 8000) -> None:
    """Write a SentencePiece model with Llama-2-like settings, trained on `count` documents."""
    lines = [line for d in islice(documents(seed), count) for line in d.split("\n") if line]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=PIECES,
        byte_fallback=True, split_digits=True, add_dummy_prefix=True, character_coverage=1.0,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def _merges(pieces: dict[str, int]) -> list[list[str]]:
    """Every way to join two pieces into a third, the earliest learned piece first."""
    found: list[list[str]] = []
    for piece in sorted(pieces, key=pieces.__getitem__):
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [(a, b) for a, b in cuts if a in pieces and b in pieces]
        found += [[a, b] for a, b in sorted(pairs, key=lambda p: (pieces[p[0]], pieces[p[1]]))]
    return found


def _added_token(index: int, content: str) -> dict[str, Any]:
    """Entry with Phi-3's published flags: white space after a role or end token is dropped."""
    return {
        "id": index, "content": content, "single_word": False, "lstrip": False,
        "rstrip": content == "</s>" or index > END_OF_TEXT, "normalized": False,
        "special": content != "</s>",
    }  # fmt: skip


def _all_added() -> list[dict[str, Any]]:
    first = [_added_token(i, t) for i, t in enumerate(("<unk>", "<s>", "</s>"))]
    return first + [_added_token(PIECES + i, t) for i, t in enumerate(_ADDED)]


def fast_tokenizer(model: spm.SentencePieceProcessor) -> dict[str, Any]:
    """The contents of `tokenizer.json` for a SentencePiece BPE, with Llama's legacy spaces."""
    vocab = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    plain = {p: i for p, i in vocab.items() if i > 2 and not model.is_byte(i)}
    space = {"String": "▁"}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": _all_added(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": space, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": vocab, "merges": _merges(plain),
        },
    }  # fmt: skip


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configs(folder: Path) -> None:
    """Write the small JSON files next to the tokenizer."""
    special = {"bos_token": "<s>", "eos_token": _ADDED[0], "pad_token": _ADDED[0],
               "unk_token": "<unk>"}  # fmt: skip
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in _all_added()}
    _dump(folder / "special_tokens_map.json", special)
    _dump(folder / "added_tokens.json", {t: PIECES + i for i, t in enumerate(_ADDED)})
    _dump(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False, "added_tokens_decoder": decoder, **special,
        "chat_template": _TEMPLATE, "clean_up_tokenization_spaces": False, "legacy": True,
        "model_max_length": MAX_LENGTH, "padding_side": "left", "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False,
    })  # fmt: skip
    _dump(folder / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": [END_OF_TEXT, ASSISTANT, END],
        "pad_token_id": END_OF_TEXT,
    })  # fmt: skip


def check(folder: Path, seed: int, count: int = 500) -> None:
    """Raise unless both tokenizers agree on `count` documents and the special ids are right."""
    slow = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for document in islice(documents(seed), count):
        text = document.replace("<|", "< |")  # SentencePiece has no added tokens
        ids = fast.encode(text).ids
        if ids != slow.encode(text) or fast.decode(ids) != text:
            raise ValueError(f"the tokenizers disagree on {document!r}")
    ids = fast.encode("<|user|>\nHi<|end|>").ids
    if ids != [2010, *slow.encode("Hi"), END]:
        raise ValueError(f"wrong ids of the special tokens: {ids}")


def build(folder: Path, seed: int) -> Tokenizer:
    """Train and write all tokenizer files into `folder`, check them and return the fast one."""
    train_sentencepiece(folder / "tokenizer.model", seed)
    model = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    _dump(folder / "tokenizer.json", fast_tokenizer(model))
    write_configs(folder)
    check(folder, seed + 1)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
