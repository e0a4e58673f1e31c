import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from calib import windows
from calib.corpus import BUNDLED, PARTS, load_corpus, render, suitable
from calib.records import Chat
from phi3quant.errors import CorpusError
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import make_tokenizer

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_parts_of_a_bundled_corpus_share_no_document(name: str) -> None:
    parts = [load_corpus(name, part) for part in PARTS]
    seen = [{str(document) for document in part.documents} for part in parts]
    assert not seen[0] & seen[1]
    assert parts[0].digest != parts[1].digest
    assert all(sum(map(len, part)) > 20_000 for part in seen)


def test_the_general_corpus_is_diverse() -> None:
    documents = load_corpus("general", "calibration").documents
    text = "\n".join(document for document in documents if isinstance(document, str))
    assert sum(not isinstance(document, str) for document in documents) >= 15
    for sample in ("def ", "SELECT", "\\int", '"order"', "Stadtrat", "Muzeum", "- 250 g"):
        assert sample in text


def test_phi3_tiny_gets_its_own_corpus_and_others_the_general_one(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    assert suitable(load_tokenizer(bundled_folder())) == "tiny"
    assert suitable(load_tokenizer(tmp_path)) == "general"


def test_text_files_are_cut_at_separator_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\nline\n<<<>>>\ntwo\n")
    assert load_corpus(path, "calibration").documents == ("one\nline", "two\n")


def test_json_lines_can_contain_text_and_chats(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": "plain"}, {"messages": CHAT}, {"content": "more"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    corpus = load_corpus(path, "calibration")
    assert corpus.documents == ("plain", Chat(CHAT, place=f"{path}, line 2"), "more")
    make_tokenizer(tmp_path)
    rendered = render(corpus, load_tokenizer(tmp_path))
    assert rendered == ("plain\n\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n\n\nmore")


def test_a_named_field_is_read_from_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "body": ["first", "second"]}), path)
    assert load_corpus(path, "calibration", "body").documents == ("first", "second")
    with pytest.raises(CorpusError, match=r"no field text or .*; it has id, body"):
        load_corpus(path, "calibration")


def test_all_text_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "ignored.bin").write_bytes(b"\x00")
    assert load_corpus(tmp_path, "calibration").documents == ("first", "second")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"good \xff bad", r"not UTF-8 \(byte 5"),
        ("a.jsonl", b'{"text": "ok"}\n{"text"', "line 2 is not readable as JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1: a record must be an object"),
        ("a.jsonl", b'{"text": 7}\n', "neither text nor a list of messages"),
        ("a.jsonl", b'{"x": "\xff"}\n', "not UTF-8"),
        ("a.parquet", b"PAR1 no", "can't be read as parquet"),
        ("a.doc", b"text", "unknown type; use one of .txt"),
    ],
)
def test_the_message_for_unusable_text_gives_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_corpus(tmp_path / name, "calibration")


def test_a_missing_text_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is no text"):
        load_corpus(tmp_path / "nowhere.txt", "calibration")
    with pytest.raises(CorpusError, match=r"holds no \.txt"):
        load_corpus(tmp_path, "calibration")


def test_other_documents_have_another_digest(tmp_path: Path) -> None:
    digests = set()
    for text in ("a", "b"):
        (tmp_path / "a.txt").write_text(text)
        digests.add(load_corpus(tmp_path / "a.txt", "calibration").digest)
    assert len(digests) == 2


def test_windows_do_not_overlap_and_the_remainder_is_dropped() -> None:
    cut = windows.cut_windows(list(range(11)), 4, "text")
    assert cut.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("count", "length"), [(3, 4), (0, 2), (9, 1)])
def test_too_little_text_for_a_window_is_refused(count: int, length: int) -> None:
    with pytest.raises(CorpusError, match="too short"):
        windows.cut_windows(list(range(count)), length, "text")


def test_the_same_seed_chooses_the_same_windows_in_order() -> None:
    everything = torch.arange(40).view(20, 2)
    first, second, other = (windows.sample_windows(everything, 6, seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first[:, 0].tolist() == sorted(first[:, 0].tolist())
    assert torch.equal(windows.sample_windows(everything, 99, 0), everything)
    assert windows.digest(first) != windows.digest(other)
