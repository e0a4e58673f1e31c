import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phi3quant.errors import InputError, NotComparableError
from phi3quant.gating import baseline_file
from phi3quant.gating.baseline import Baseline, read_baseline, write_baseline
from phi3quant.gating.top_predictions import TOP, TopPredictions

WINDOWS, TARGETS = 6, 31


def recorded(vocabulary: int = 2048, windows: int = WINDOWS) -> Baseline:
    """A baseline of predictions that compress as badly as any."""
    generator = torch.Generator().manual_seed(1)
    tokens = windows * TARGETS
    steps = torch.randint(0, 400, (tokens, TOP), generator=generator).cumsum(dim=1)
    losses = torch.rand(3, windows, TARGETS, generator=generator)
    return Baseline(
        text={"text": "tiny/evaluation", "windows": windows, "window_tokens": TARGETS + 1},
        reference={"name": "a", "sha256": {"model.safetensors": "00"}},
        artifact={"name": "b", "recipe": {"method": "rtn"}},
        facts={"chat template": ["é\n"]},
        tools={"phi3quant": "0"},
        history=[{"reason": "created"}],
        reference_nll=losses[0],
        artifact_nll=losses[1],
        artifact_kl=losses[2],
        top=TopPredictions(
            torch.randint(0, vocabulary, (tokens, TOP), generator=generator),
            -steps.float() / 512,
            torch.rand(tokens, generator=generator),
        ),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_baseline(tmp_path / "b", recorded())
    return tmp_path / "b"


@pytest.mark.parametrize("vocabulary", [2048, 32_064, 200_064])
def test_a_baseline_comes_back_exactly_in_less_than_300_bytes_a_token(
    vocabulary: int, tmp_path: Path
) -> None:
    made = recorded(vocabulary, windows=40)
    assert write_baseline(tmp_path / "b", made) < 300 * made.tokens
    found = read_baseline(tmp_path / "b")
    for name in ("text", "reference", "artifact", "facts", "tools", "history"):
        assert getattr(found, name) == getattr(made, name)
    for name in ("reference_nll", "artifact_nll", "artifact_kl"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    for name in ("ids", "log", "rest"):
        assert torch.equal(getattr(found.top, name), getattr(made.top, name))


def test_the_same_predictions_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_baseline(tmp_path / "again", recorded())
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.99, 0.99999])
def test_a_truncated_one_is_refused(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(NotComparableError, match=r"not a baseline|truncated or damaged"):
        read_baseline(path)


def test_no_flipped_byte_goes_unnoticed(path: Path) -> None:
    content = path.read_bytes()
    for at in range(0, len(content), 997):
        spoiled = bytearray(content)
        spoiled[at] ^= 0x40
        path.write_bytes(bytes(spoiled))
        with pytest.raises(NotComparableError):
            read_baseline(path)


def test_another_schema_version_is_named(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 8, 7)
    path.write_bytes(bytes(content))
    with pytest.raises(NotComparableError, match="schema version 7, and this phi3quant reads 1"):
        read_baseline(path)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_baseline(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [1 << 60, TOP]}, "claims"),
        ({"shape": [-1, TOP]}, "can't be read"),
        ({"dtype": "|O"}, "can't be read"),
        ({"dtype": "<f8"}, "can't be read"),
        ({"bytes": 1 << 50}, "don't add up"),
        ({"shape": [WINDOWS * TARGETS - 1, TOP]}, "isn't of the size"),
        ({"name": "top_steps"}, "contradicts itself"),
    ],
)
def test_a_header_that_lies_is_refused_though_its_checksum_holds(
    entry: dict[str, object], message: str, path: Path
) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content, 12)
    header = json.loads(content[20 : 20 + length])
    index = next(i for i, array in enumerate(header["arrays"]) if array["name"] == "top_ids")
    header["arrays"][index] |= entry
    path.write_bytes(forged(header, content[20 + length : -32]))
    with pytest.raises(NotComparableError, match=message):
        read_baseline(path)


def forged(header: object, arrays: bytes) -> bytes:
    """A file with a right checksum over whatever it holds."""
    import hashlib

    text = json.dumps(header).encode()
    body = baseline_file._PREFIX.pack(baseline_file._MAGIC, 1, len(text)) + text + arrays
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("header", [[], {}, "x", {"arrays": []}, {"arrays": [{}]}])
def test_a_header_without_its_parts_is_refused(header: object, path: Path) -> None:
    path.write_bytes(forged(header, b""))
    with pytest.raises(NotComparableError):
        read_baseline(path)


def test_predictions_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = recorded()
    broken.artifact_nll[2, 3] = float("nan")
    write_baseline(tmp_path / "b", broken)
    with pytest.raises(NotComparableError, match="NaN"):
        read_baseline(tmp_path / "b")


def test_losses_of_other_windows_than_stated_are_refused(tmp_path: Path) -> None:
    odd = replace(recorded(), text={"text": "t", "windows": 5, "window_tokens": TARGETS + 1})
    write_baseline(tmp_path / "b", odd)
    with pytest.raises(NotComparableError, match="not 5 windows"):
        read_baseline(tmp_path / "b")
