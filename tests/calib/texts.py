"""Files of text for tests, and the documents that are read from them."""

import json
from pathlib import Path
from typing import Any

from calib.corpus import Corpus, load_corpus

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]}


def load(path: Path, field: str | None = None, part: str = "calibration") -> Corpus:
    return load_corpus(path, part, field)


def lines(folder: Path, *records: Any) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def turns(corpus: Corpus) -> list[Any]:
    return [
        document if isinstance(document, str) else document.plain() for document in corpus.documents
    ]
