import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from converters import open_located
from converters.stop_tokens import stop_tokens
from phi3quant.cli.main import main
from phi3quant.generation.generate import _TextStream, generate
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import Located, bundled_folder
from phi3quant.source.tokenizer import load_tokenizer

QUESTION, ANSWER = "What is the opposite of hot?", "The opposite of hot is cold."
FORMATS = ("compressed-tensors", "awq-gemm", "gptq", "gguf", "onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    quantize("phi3-tiny", folder, Recipe("rtn", formats=FORMATS))
    return folder


def run(*words: Any, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, words)], input=text)


@pytest.mark.parametrize("kind", ["phi3-tiny", *FORMATS])
def test_every_format_answers_and_stops_by_itself(kind: str, made: Path) -> None:
    result = run(kind if kind == "phi3-tiny" else made / kind, QUESTION)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == ANSWER
    assert "ended by a stop token" in result.stderr
    assert "tokens/s" in result.stderr


def test_gguf_is_computed_here_without_llama_cpp(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3quant.generation.generate.has_llama", lambda: False)
    found = generate(made / "gguf", QUESTION)
    assert found.text == ANSWER
    assert found.runtime.startswith("phi3quant")


def test_json_says_all_and_nothing_else() -> None:
    result = run("phi3-tiny", "-", "--json", "--max-new-tokens", 3, text=QUESTION)
    said = json.loads(result.stdout)
    assert len(said["ids"]) == 3
    assert said["text"] == "The opposite of"
    assert not said["stopped"]
    assert said["prompt_tokens_per_second"] > 0
    assert said["tokens_per_second"] > 0
    tokenizer = load_tokenizer(bundled_folder())
    turn = {"role": "user", "content": QUESTION}
    prompt = tokenizer.encode(tokenizer.render_chat([turn], add_generation_prompt=True))
    assert said["prompt_tokens"] == len(prompt)


def test_raw_text_gets_no_template() -> None:
    assert generate("phi3-tiny", "hot", raw=True, max_new_tokens=1).prompt_tokens == len(
        load_tokenizer(bundled_folder()).encode("hot")
    )


def test_two_models_stand_side_by_side(made: Path) -> None:
    result = run(made, QUESTION, "--compare", "phi3-tiny")
    assert result.exit_code == 0, result.output
    assert any(
        line.count("The opposite of hot is cold.") == 2 for line in result.stdout.split("\n")
    )
    assert "both wrote the same tokens" in result.stderr
    assert json.loads(run(made, QUESTION, "--compare", "phi3-tiny", "--json").stdout)["reference"]


def test_draws_can_be_repeated() -> None:
    words = ("phi3-tiny", "Tell me a story.", "--temperature", 1.5, "--max-new-tokens", 12)
    first, again, other = (run(*words, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_pieces_of_text_make_the_text() -> None:
    pieces: list[str] = []
    found = generate("phi3-tiny", "Tell me a story.", max_new_tokens=30, tell=pieces.append)
    assert "".join(pieces) == found.text
    assert len(pieces) > 5


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokenizer = load_tokenizer(bundled_folder())
    text = "a 東京 🙂 b"
    pieces: list[str] = []
    stream = _TextStream(tokenizer, pieces.append)
    for number in tokenizer.encode(text):
        stream.add(number)
    stream.finish()
    assert "".join(pieces) == stream.text == tokenizer.decode(tokenizer.encode(text))
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("phi3-tiny", ""), "prompt is empty"),
        (("phi3-tiny", "word " * 1100), "no room for an answer"),
        (("phi3-tiny", "Hi", "--max-new-tokens", 1024), "--max-new-tokens 10"),
        (("nowhere", "Hi"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused(words: tuple[Any, ...], reason: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_a_prompt_that_is_no_text_is_refused() -> None:
    result = run("phi3-tiny", "-", text=b"\xff\xfe\xfa")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_an_interruption_ends_it_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("phi3quant.generation.decoder.BlockwiseDecoder.feed", interrupted)
    result = run("phi3-tiny", QUESTION)
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr


def test_ends_of_turns_stop_whatever_the_files_say(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    folder = checkpoint_folder("gqa")
    opened = open_located(Located(folder, "model"))
    # config.json names 2 alone.
    assert stop_tokens(opened) == {2, *opened.tokenizer.encode("<|end|>")}
