"""State of training in a file, from which an interrupted run resumes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from phi3quant.disk.output import write_bytes
from phi3quant.errors import ResumeError

_EVERY_SECONDS = 60.0
# Running means of Adam, by their names in torch.
_MEANS = ("exp_avg", "exp_avg_sq")


@dataclass
class ResumePoint:
    """File with the state of training.

    Attributes:
        path: the file; it belongs to the run whose settings its folder records.
    """

    path: Path
    _kept_at: float = field(default_factory=time.monotonic)

    def keep(
        self, done: int, factors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Record the state after ``done`` steps, at most once a minute.

        Raises:
            OutputError: the file can't be written.
        """
        if time.monotonic() - self._kept_at < _EVERY_SECONDS:
            return
        tensors = {"done": torch.tensor(done)}
        for name, log in factors.items():
            tensors[name] = log
            for mean in _MEANS:
                tensors[f"{name}:{mean}"] = optimizer.state[log][mean]
        write_bytes(self.path, save({name: each.contiguous() for name, each in tensors.items()}))
        self._kept_at = time.monotonic()

    def restore(self, factors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Put the recorded state in place; returns the number of steps done, 0 without a file.

        Raises:
            ResumeError: the file is damaged.
        """
        if not self.path.exists():
            return 0
        try:
            stored = load(self.path.read_bytes())
            done = int(stored["done"])
            for name, log in factors.items():
                log.copy_(stored[name])
                state: dict[str, Any] = {
                    mean: stored[f"{name}:{mean}"].to(log.device) for mean in _MEANS
                }
                optimizer.state[log] = {"step": torch.tensor(float(done)), **state}
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ResumeError(f"{self.path} is damaged ({error}); pass --overwrite") from None
        return done
