"""The exceptions phi3quant raises for anything a user can cause or mend.

    Phi3QuantError
    ├── InputError             something given can't be used
    │   ├── ModelNotFoundError   no such folder, hub id or bundled model
    │   ├── ConfigError          config.json is missing, broken or not Phi-3
    │   ├── CheckpointError      a shard or tensor is missing, truncated or mis-shaped
    │   │   └── DamagedError           its values are not finite, or changed while they were read
    │   ├── TokenizerError       no usable tokenizer files
    │   ├── CorpusError          text is missing, empty, too short or not UTF-8
    │   └── SchemeError          bits, group size and symmetry don't go with the model or the format
    ├── NotComparableError     two things that were to be compared don't belong together
    ├── OutputError            the result can't be written there
    ├── ResumeError            an unfinished run can't be gone on with, or would be lost
    ├── MemoryLimitError       a run needs more memory than there is, or than it may use
    ├── MissingExtraError      an optional dependency is not installed
    └── RuntimeTooOldError     a runtime is older than what a model needs

The command line prints the message alone and exits with code 2, or 3 if nothing could be compared.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

OPTIONS: Mapping[str, str] = {
    "-o": "output",
    "--bandwidth": "bandwidth",
    "--calib-field": "Calibration(field=...)",
    "--group-size": "group_size",
    "--max-memory": "max_memory",
    "--max-new-tokens": "max_new_tokens",
    "--memory": "memory",
    "--no-score": "scored=False",
    "--overwrite": "overwrite=True",
    "--reference": "reference",
    "--resume": "Conduct(resume=True)",
    "--sym": "symmetric=True",
    "--text": "text",
    "--text-field": "EvaluationText(field=...)",
}
"""Names in Python of the options that messages mention."""

_OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-o)(?![\w-])")
_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Leave options in messages as the command line spells them."""
    token = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(token)


class Phi3QuantError(Exception):
    """Base of all errors with a message meant for the user: what is wrong, where, what to do.

    Messages are written with the names of command-line options; in Python, those of arguments
    stand in their place.
    """

    def __str__(self) -> str:
        text = self.command_line_message
        if _COMMAND_LINE.get():
            return text
        return _OPTION.sub(lambda match: OPTIONS.get(match.group(), match.group()), text)

    @property
    def command_line_message(self) -> str:
        """The message with options as the command line spells them."""
        return super().__str__()


class InputError(Phi3QuantError):
    """Something the user gave can't be used."""


class ModelNotFoundError(InputError):
    """The model is neither a folder, a hub id that can be had, nor the bundled one."""


class ConfigError(InputError):
    """config.json is missing, unreadable, or describes something other than Phi-3."""


class CheckpointError(InputError):
    """A weight file or tensor is missing, truncated, mis-shaped or of a kind that can't be read."""


class DamagedError(CheckpointError):
    """Weights hold NaN or infinity, or changed while they were read: they give no result."""


class TokenizerError(InputError):
    """The model folder has no tokenizer that can be read."""


class CorpusError(InputError):
    """Calibration or evaluation text is missing, empty, too short or not UTF-8."""


class SchemeError(InputError):
    """A quantization scheme does not go with the model, the method or the format."""


class NotComparableError(Phi3QuantError):
    """A comparison would say nothing: other text, tokenizer or recipe, or files that changed."""


class OutputError(Phi3QuantError):
    """The output can't be written: it exists, or the disk is full or read-only."""


class ResumeError(Phi3QuantError):
    """An unfinished run can't be gone on with, or would be lost without its owner's leave."""


class MemoryLimitError(Phi3QuantError):
    """A run needs more memory than there is, or than it may use."""


class MissingExtraError(Phi3QuantError):
    """An optional dependency is needed; the message names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'phi3quant[{extra}]'")


class RuntimeTooOldError(Phi3QuantError):
    """A runtime would not run a model, or would compute something else than newer ones."""

    def __init__(self, name: str, version: str, needed: str) -> None:
        super().__init__(
            f"{name} {version} is too old; {needed} or newer is needed: "
            f"pip install -U '{name}>={needed}'"
        )


def require(error: type[Phi3QuantError], name: str, value: object, *kinds: type | None) -> None:
    """Refuse an argument of another type than those that are allowed.

    Args:
        error: class of the error.
        name: of the argument.
        value: that was passed.
        kinds: types that are allowed; None allows None.

    Raises:
        Phi3QuantError: of the class ``error``.
    """
    types = tuple(kind for kind in kinds if kind is not None)
    # True is an int to Python, and a mistake here.
    if (isinstance(value, types) and not (isinstance(value, bool) and bool not in types)) or (
        value is None and None in kinds
    ):
        return
    allowed = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
    raise error(f"{name} is {value!r}, of type {type(value).__name__}; it must be {allowed}")
