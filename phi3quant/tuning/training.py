"""Training of the factors of scales and norms: order of the windows, steps and learning rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from calib.activations import Hidden, part
from phi3quant.progress import Progress
from phi3quant.tuning.divergence import Head, divergence
from phi3quant.tuning.resume_point import ResumePoint
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.student import Student, named

_WARM_UP = 5
_BETAS = (0.9, 0.95)
LOOKS = 4
"""Times that held-back windows are scored in between."""


@dataclass(frozen=True)
class Training:
    """Training of the factors.

    Attributes:
        student: the quantized model, whose factors are trained.
        log_norm: logarithms of the last norm's factors, FP32 [hidden].
        norm, head: last norm, and output matrix for products.
        teacher: head of the original model.
        ids: windows, int64 [windows, length].
        targets: last states of the original model for these windows.
        batches: windows of each step of a pass.
        settings: passes and rate.
        point: see ``tune``.
    """

    student: Student
    log_norm: torch.Tensor
    norm: torch.Tensor
    head: torch.Tensor
    teacher: Head
    ids: torch.Tensor
    targets: Hidden
    batches: Sequence[slice]
    settings: TuningSettings
    point: ResumePoint | None

    def all_steps(self, progress: Progress, look: Callable[[], float], before: float) -> None:
        """Train, or continue after the last point.

        Args:
            progress: display of the steps.
            look: mean KL of the held-back windows now.
            before: the same at the start.
        """
        factors = named(self.student.blocks, self.log_norm)
        optimizer = torch.optim.Adam(factors.values(), lr=self.settings.rate, betas=_BETAS)
        order = self._order()
        done = self.point.restore(factors, optimizer) if self.point else 0
        judged = before
        with progress("tuning scales and norms", len(order)) as step:
            step(done)
            for number in range(done, len(order)):
                loss = self._step(self.batches[order[number]])
                optimizer.param_groups[0]["lr"] = self.settings.rate * _warmth(number, len(order))
                optimizer.step()
                if (number + 1) % max(1, len(order) // LOOKS) == 0:
                    judged = look()
                step(1, f"KL {loss:.4f}, held back {judged:.4f} (was {before:.4f})")
                if self.point:
                    self.point.keep(number + 1, factors, optimizer)

    def _order(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.settings.seed)
        return [
            int(number)
            for _ in range(self.settings.passes)
            for number in torch.randperm(len(self.batches), generator=generator)
        ]

    def _step(self, batch: slice) -> float:
        """Set all gradients for a batch; returns its mean KL before the step."""
        states = self.student.forward(self.ids[batch])
        last = states[-1]
        norm = self.norm * self.log_norm.exp()
        result = divergence(
            self.teacher,
            part(self.targets, batch).flatten(0, 1),
            Head(norm, self.head, self.teacher.eps),
            last.flatten(0, 1),
        )
        self.log_norm.grad = result.norm * norm
        self.student.backward(states, result.states.view_as(last))
        return result.mean


def _warmth(step: int, steps: int) -> float:
    """Learning rate of a step, relative to the highest."""
    warm = min(1.0, (step + 1) / _WARM_UP)
    return warm * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
