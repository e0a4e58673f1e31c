"""Baselines: recorded predictions of an artifact and its original, for later comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phi3quant.disk.output import write_bytes
from phi3quant.errors import InputError, NotComparableError
from phi3quant.evaluation.perplexity import Comparison
from phi3quant.gating import baseline_file
from phi3quant.gating.top_predictions import STEP, TopPredictions

_LOSSES = ("reference_nll", "artifact_nll", "artifact_kl")
_OBJECTS = ("text", "reference", "artifact", "facts", "tools")


@dataclass(frozen=True)
class Baseline:
    """Recorded predictions and their origin.

    Attributes:
        text: name of the text; hashes of the text, the vocabulary and the token ids; number and
            length of the windows.
        reference: model in full precision: name, revision, SHA-256 of its files.
        artifact: artifact: name, format, recipe, bits per weight, SHA-256 of its files.
        facts: exact facts of the artifact (see phi3quant.gating.facts).
        tools: versions of the tools that recorded the baseline.
        history: reasons for its creation and each update, the oldest first.
        reference_nll, artifact_nll: FP32 [windows, targets], NLL of every target in nats.
        artifact_kl: FP32 [windows, targets], divergence of the artifact from the reference.
        top: the reference's best tokens at every target, in the order of the windows.
    """

    text: Mapping[str, Any]
    reference: Mapping[str, Any]
    artifact: Mapping[str, Any]
    facts: Mapping[str, Any]
    tools: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    reference_nll: torch.Tensor
    artifact_nll: torch.Tensor
    artifact_kl: torch.Tensor
    top: TopPredictions

    @property
    def tokens(self) -> int:
        """Number of scored targets."""
        return self.reference_nll.numel()

    def updated(
        self,
        artifact: Mapping[str, Any],
        facts: Mapping[str, Any],
        tools: Mapping[str, Any],
        beside: Comparison,
        entry: Mapping[str, Any],
    ) -> "Baseline":
        """Copy with another artifact and a further entry in the history."""
        return replace(
            self,
            artifact=artifact,
            facts=facts,
            tools=tools,
            artifact_nll=beside.candidate.nll.float(),
            artifact_kl=beside.kl.float(),
            history=[*self.history, entry],
        )


def write_baseline(path: Path, baseline: Baseline, *, replace: bool = True) -> int:
    """Write a baseline atomically; an existing file is overwritten only with ``replace``.

    Returns:
        Bytes of the file.

    Raises:
        OutputError: the file can't be written, or exists and ``replace`` is False.
    """
    header = {name: getattr(baseline, name) for name in (*_OBJECTS, "history")}
    top = baseline.top
    # Log-probabilities as differences between neighbours, in steps: small numbers.
    steps = (-top.log.double() / STEP).round().clamp(max=0xFFFF).to(torch.int64).numpy()
    narrow = int(top.ids.max()) <= 0xFFFF
    content = baseline_file.pack(
        header,
        {
            "reference_nll": baseline.reference_nll.float().numpy(),
            "artifact_nll": baseline.artifact_nll.float().numpy(),
            "artifact_kl": baseline.artifact_kl.float().numpy(),
            "top_ids": top.ids.numpy().astype("<u2" if narrow else "<u4"),
            "top_steps": np.diff(steps, axis=1, prepend=0).astype("<u2"),
            "rest": top.rest.float().numpy(),
        },
    )
    write_bytes(path, content, replace=replace)
    return len(content)


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: there is no such file.
        NotComparableError: it is not a baseline, or has another schema version, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the baseline {path} can't be read: {error.strerror}; "
            "phi3quant baseline create makes one"
        ) from None
    header, arrays = baseline_file.unpack(content, str(path))
    try:
        return _assembled(header, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise NotComparableError(f"the baseline {path} contradicts itself: {error}") from None


def _assembled(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Baseline:
    windows, targets = _checked_header(header)
    _check_arrays(arrays, windows, targets)
    losses = {name: arrays[name] for name in _LOSSES}
    ids, steps, rest = arrays["top_ids"], arrays["top_steps"], arrays["rest"]
    log = -torch.from_numpy(steps.astype(np.int64).cumsum(axis=1)).double() * STEP
    return Baseline(
        **{name: header[name] for name in _OBJECTS},
        history=header["history"],
        reference_nll=torch.from_numpy(losses["reference_nll"].copy()),
        artifact_nll=torch.from_numpy(losses["artifact_nll"].copy()),
        artifact_kl=torch.from_numpy(losses["artifact_kl"].copy()),
        top=TopPredictions(
            torch.from_numpy(ids.astype(np.int64)), log.float(), torch.from_numpy(rest.copy())
        ),
    )


def _checked_header(header: Mapping[str, Any]) -> tuple[int, int]:
    """Check the header; return the number of windows, and of targets in each."""
    for name in _OBJECTS:
        if not isinstance(header[name], Mapping):
            raise TypeError(f"its {name} is not an object")
    history = header["history"]
    if not isinstance(history, list) or not all(isinstance(entry, Mapping) for entry in history):
        raise TypeError("its history is not a list of objects")
    text = header["text"]
    if not isinstance(text["text"], str):
        raise TypeError("its text has no name")
    if any(type(text[key]) is not int for key in ("windows", "window_tokens")):
        raise TypeError("its numbers of windows and tokens are not whole numbers")
    return text["windows"], text["window_tokens"] - 1


def _check_arrays(arrays: Mapping[str, np.ndarray], windows: int, targets: int) -> None:
    losses = [arrays[name] for name in _LOSSES]
    ids, steps, rest = arrays["top_ids"], arrays["top_steps"], arrays["rest"]
    if any(values.dtype != np.float32 for values in (*losses, rest)):
        raise TypeError("its losses are not FP32")
    if any(values.dtype.kind != "u" for values in (ids, steps)):
        raise TypeError("its predictions are not unsigned integers")
    tokens = windows * targets
    if tokens < 1 or any(values.shape != (windows, targets) for values in losses):
        raise ValueError(f"its losses are not {windows} windows of {targets}")
    if ids.ndim != 2 or len(ids) != tokens or steps.shape != ids.shape or rest.shape != (tokens,):
        raise ValueError(f"its predictions are not those of {tokens} tokens")
    if not all(np.isfinite(values).all() for values in (*losses, rest)):
        raise ValueError("it contains NaN or infinity")
