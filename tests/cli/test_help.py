"""Help texts and signatures of every command."""

import inspect
import typing
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from phi3quant.cli.help_sections import SECTIONS
from phi3quant.cli.main import main


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            yield from (((name, inner), each) for inner, each in command.commands.items())


COMMANDS = dict(commands())
ONE_EACH = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


@ONE_EACH
def test_help_fits_80_columns_and_shows_an_example(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"  phi3quant {' '.join(words)} ") for line in lines)


@ONE_EACH
def test_every_option_is_documented_and_belongs_to_one_section(words: tuple[str, ...]) -> None:
    titles = [name for names in SECTIONS.values() for name in names]
    assert len(titles) == len(set(titles))
    for param in COMMANDS[words].params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert param.help[0].isupper() or param.help[0].isdigit(), param.help
            assert param.help.rstrip("]").split("  [")[0].endswith((".", "model")), param.help


@ONE_EACH
def test_commands_take_typed_parameters(words: tuple[str, ...]) -> None:
    callback = COMMANDS[words].callback
    assert callback is not None
    signature = inspect.signature(callback)
    hints = typing.get_type_hints(inspect.unwrap(callback))
    for name, parameter in signature.parameters.items():
        assert parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}, name
        assert hints[name] is not typing.Any, name


def test_the_list_has_a_line_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    assert listed == sorted(words[0] for words in COMMANDS if len(words) == 1)
