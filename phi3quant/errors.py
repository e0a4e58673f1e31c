"""Exceptions for everything that a user can cause or fix.

    Phi3QuantError
    ├── InputError             an input can't be used
    │   ├── ModelNotFoundError   no such folder, hub id or bundled model
    │   ├── ConfigError          config.json is missing, broken or not Phi-3
    │   ├── CheckpointError      a shard or tensor is missing, truncated or mis-shaped
    │   │   └── DamagedError           values are not finite, or changed while they were read
    │   ├── AdapterError         an adapter is missing, of another kind or doesn't fit the model
    │   ├── TokenizerError       no usable tokenizer files
    │   ├── CorpusError          text is missing, empty, too short or not UTF-8
    │   └── SchemeError          a quantization scheme doesn't fit the model or the format
    ├── NotComparableError     two results can't be compared
    ├── OutputError            the output can't be written
    ├── ResumeError            an unfinished run can't be resumed, or would be lost
    │   └── BusyError              another process is writing the same output
    ├── ClusterError           a cluster can't be reached, or its nodes differ
    │   └── MemberLostError        a worker of a team has died
    ├── MemoryLimitError       a run needs more memory than is available or allowed
    ├── DeviceError            there is no such device, or it can't be used
    ├── MissingExtraError      an optional dependency is not installed
    └── RuntimeTooOldError     a runtime is older than the model requires

The command line prints only the message and exits with code 2, or 3 for NotComparableError.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

OPTIONS: Mapping[str, str] = {
    "-o": "output",
    "--adapter": "adapters",
    "--bandwidth": "bandwidth",
    "--calib-field": "Calibration(field=...)",
    "--device": "the device",
    "--export": "Recipe(formats=...)",
    "--group-size": "group_size",
    "--imatrix": "imatrix",
    "--max-memory": "Conduct(max_memory=...)",
    "--max-new-tokens": "max_new_tokens",
    "--memory": "memory",
    "--models": "models",
    "--no-score": "scored=False",
    "--overwrite": "overwrite=True",
    "--presets": "presets",
    "--ray": "Conduct(teams=...)",
    "--reason": "reason",
    "--reference": "reference",
    "--requantize": "requantize=True",
    "--resume": "Conduct(resume=True)",
    "--samples": "Calibration(samples=...)",
    "--seq-len": "Calibration(length=...)",
    "--sym": "symmetric=True",
    "--target-bpw": "Recipe(target_bpw=...)",
    "--tensor-type": "tensor_types",
    "--text": "text",
    "--text-field": "EvaluationText(field=...)",
    "--threads": "threads",
    "--tune": "Recipe(tuning=...)",
    "--tune-passes": "TuningSettings(passes=...)",
    "--tune-windows": "TuningSettings(windows=...)",
    "--type": "kind",
    "--workers": "workers",
}
"""Python arguments by the command-line option that messages mention."""

_OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-o)(?![\w-])")
_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Keep the command line's names of options in messages."""
    token = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(token)


class Phi3QuantError(Exception):
    """Base of all errors with a message for the user: what is wrong, where, what to do.

    Messages contain the names of command-line options, which are replaced by names of arguments in
    Python.
    """

    def __str__(self) -> str:
        text = self.command_line_message
        if _COMMAND_LINE.get():
            return text
        return _OPTION.sub(lambda match: OPTIONS.get(match.group(), match.group()), text)

    @property
    def command_line_message(self) -> str:
        """Message with the command line's names of options."""
        return super().__str__()


class InputError(Phi3QuantError):
    """An input can't be used."""


class ModelNotFoundError(InputError):
    """The model is neither a folder, nor an available hub id, nor a bundled model."""


class ConfigError(InputError):
    """config.json is missing, unreadable, or describes something other than Phi-3."""


class CheckpointError(InputError):
    """A weight file or tensor is missing, truncated, mis-shaped or of an unsupported kind."""


class DamagedError(CheckpointError):
    """Weights contain NaN or infinity, or changed while they were read."""


class AdapterError(InputError):
    """An adapter is missing, of an unsupported kind, or doesn't fit the model."""


class TokenizerError(InputError):
    """The model has no readable tokenizer."""


class CorpusError(InputError):
    """Calibration or evaluation text is missing, empty, too short or not UTF-8."""


class SchemeError(InputError):
    """A quantization scheme doesn't fit the model, the method or the format."""


class NotComparableError(Phi3QuantError):
    """A comparison is meaningless: different text, tokenizer or recipe, or changed files."""


class OutputError(Phi3QuantError):
    """The output can't be written: it exists, or the disk is full or read-only."""


class ResumeError(Phi3QuantError):
    """An unfinished run can't be resumed, or would be lost without permission."""


class BusyError(ResumeError):
    """Another process is writing the same output."""


class ClusterError(Phi3QuantError):
    """A cluster can't be reached, its nodes differ, or a job fits none of them."""


class MemberLostError(ClusterError):
    """A worker of a team has died; a new team can continue."""


class MemoryLimitError(Phi3QuantError):
    """A run needs more memory than is available or allowed."""


class DeviceError(Phi3QuantError):
    """There is no such device, or it can't be used."""


class MissingExtraError(Phi3QuantError):
    """An optional dependency is missing; the message names the extra that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'phi3quant[{extra}]'")


class RuntimeTooOldError(Phi3QuantError):
    """A runtime can't run a model, or would compute other results than newer versions."""

    def __init__(self, name: str, version: str, needed: str) -> None:
        super().__init__(
            f"{name} {version} is too old; {needed} or newer is needed: "
            f"pip install -U '{name}>={needed}'"
        )


def require(error: type[Phi3QuantError], name: str, value: object, *kinds: type | None) -> None:
    """Refuse an argument whose type is not allowed.

    Args:
        error: class of the error to raise.
        name: name of the argument.
        value: value of the argument.
        kinds: allowed types; None allows None.

    Raises:
        Phi3QuantError: of the class ``error``.
    """
    types = tuple(kind for kind in kinds if kind is not None)
    # In Python True is an int, but passing it for a number is a mistake.
    if (isinstance(value, types) and not (isinstance(value, bool) and bool not in types)) or (
        value is None and None in kinds
    ):
        return
    allowed = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
    raise error(f"{name} is {value!r}, of type {type(value).__name__}; it must be {allowed}")
