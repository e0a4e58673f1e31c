"""Values that options take, and messages that name what was probably meant."""

import re
from collections.abc import Callable

import pytest
from click import BadParameter
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.cli.values import Name, Names, Size


@pytest.fixture
def run(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(str(tmp_path))
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("quantise",), None),
        (("estimat",), "estimate"),
        (("evalute", "phi3-tiny"), "evaluate"),
        (("perplexty", "phi3-tiny"), "perplexity"),
        (("awq", "--smaples", "4"), "--samples"),
        (("awq", "--preset", "phonefast"), "phone-fast"),
        (("awq", "--export", "gguf,onxx"), "onnx"),
        (("awq", "--export", "gguf", "--gguf-type", "q4km"), "Q4_K_M"),
        (("export", "gguf", "--type", "q8"), "Q8_0"),
        (("export", "onx"), "onnx"),
        (("estimate", "--format", "compressed"), "compressed-tensors"),
        (("estimate", "--device", "iphone15pro"), "iphone-15-pro"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_closest(
    words: tuple[str, ...], meant: str | None, run: Callable[..., Result]
) -> None:
    result = run(*words)
    assert result.exit_code == 2
    suggestion = re.search(r"did you mean '?([\w-]+)'?", result.stderr, re.IGNORECASE)
    assert (suggestion and suggestion[1]) == meant


def test_names_are_read_in_any_case_and_all_of_them_are_listed() -> None:
    kind = Name("GGUF type", ["Q4_0", "Q8_0"])
    assert kind.convert("q4_0", None, None) == "Q4_0"
    with pytest.raises(BadParameter, match=r"no GGUF type 'zip'\. Choose from Q4_0, Q8_0\."):
        kind.convert("zip", None, None)


def test_several_names_are_separated_by_commas() -> None:
    formats = Names("format", ["gguf", "onnx"])
    assert formats.convert("onnx, GGUF,", None, None) == ("onnx", "gguf")
    with pytest.raises(BadParameter, match="no format is given"):
        formats.convert(",", None, None)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("2G", 2 * 10**9), ("2GB", 2 * 10**9), ("500MB", 500 * 10**6), ("4 GiB", 4 << 30), ("7", 7)],
)
def test_sizes_are_read_in_decimal_and_binary_units(text: str, nbytes: int) -> None:
    assert Size().convert(text, None, None) == nbytes


@pytest.mark.parametrize("text", ["", "0", "-1G", "2T", "lots", "9" * 400])
def test_other_sizes_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadParameter, match="write 2GB, 500MB or 4GiB"):
        Size().convert(text, None, None)


def test_perplexity_is_another_name_for_evaluate(run: Callable[..., Result]) -> None:
    helps = [run(name, "--help").output for name in ("evaluate", "perplexity")]
    first, second = (text.replace("perplexity", "evaluate") for text in helps)
    assert first == second
    assert '"phi3quant perplexity" is another name' in " ".join(helps[0].split())
    assert "(alias: perplexity)" in run("--help").output
