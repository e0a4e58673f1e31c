"""Tuning: scales and norms trained until the predictions are closest to the original model's.

Codes stay. Every scale of a group and every norm's weight is multiplied by a factor, and Adam
changes the logarithms of the factors (Kingma and Ba, 2015) to lower KL(original || quantized) of
the next token. Held-back windows decide how much of the change is kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from calib.activations import Shelf
from calib.capture import last_states
from converters.parts import Parts, StoredBlock
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, sequence_context
from phi3quant.model.device import free_memory
from phi3quant.model.precision import product_dtype
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress, Step
from phi3quant.quant.block import rounded_norm
from phi3quant.quant.tensor import floats
from phi3quant.tuning.divergence import Head, mean_divergence
from phi3quant.tuning.factors import settled
from phi3quant.tuning.resume_point import ResumePoint
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.student import Student, neutral_blocks
from phi3quant.tuning.training import Training

STRENGTHS = (1.0, 0.5, 0.0)
"""Powers of the trained factors among which held-back windows choose; 0 is the model as it was."""
KEPT_BYTES = 2_000_000_000
"""Limit on the bytes of blocks that are kept ready in a CPU's memory."""
# Share of a GPU's free memory for blocks kept ready.
_KEPT_SHARE = 0.5


@dataclass(frozen=True)
class Windows:
    """Windows of token ids to tune on.

    Attributes:
        train: int64 [windows, length].
        held_back: windows of each text that only judge, int64 [windows, length].
    """

    train: torch.Tensor
    held_back: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Tuned:
    """Result of tuning.

    Attributes:
        blocks: logarithms of each block's factors, on the CPU.
        norm: logarithms of the last norm's factors, on the CPU.
        strength: power of the factors that the held-back windows chose; 0 if none is an
            improvement.
        before: mean KL of each held-back text before, in nats per token.
        after: the same at that strength, with scales as they are stored.
    """

    blocks: Sequence[Mapping[str, torch.Tensor]]
    norm: torch.Tensor
    strength: float
    before: Mapping[str, float]
    after: Mapping[str, float]

    def block(self, index: int, block: StoredBlock) -> StoredBlock:
        """A stored block with tuned scales and norms."""
        return settled(block, self.blocks[index], self.strength)

    def final_norm(self, norm: torch.Tensor) -> torch.Tensor:
        """The tuned last norm, FP32 [hidden]."""
        return rounded_norm(norm * (self.norm * self.strength).exp()) if self.strength else norm

    def parts(self, parts: Parts) -> Parts:
        """The parts of the quantized model with tuned scales and norms."""
        return replace(
            parts,
            block=lambda index: self.block(index, parts.block(index)),
            final_norm=lambda: self.final_norm(parts.final_norm()),
        )

    def as_json(self) -> dict[str, object]:
        """Strength and divergences as JSON values."""
        return {
            "strength": self.strength,
            "kl_before": dict(self.before),
            "kl_after": dict(self.after),
        }


def tune(
    original: ModelWeights,
    quantized: Parts,
    config: Phi3Config,
    windows: Windows,
    settings: TuningSettings,
    shelf: Shelf,
    progress: Progress,
    point: ResumePoint | None = None,
) -> Tuned:
    """Tune a quantized model.

    Args:
        original: the original model; read once, block by block.
        quantized: parts of the quantized model; blocks are read for every pass, unless there is
            memory to keep them.
        config: configuration of both.
        windows: windows to tune on.
        settings: passes, batch and rate.
        shelf: storage of the original's states; its device computes.
        progress: display of the stages.
        point: keeps the state of training, from which an interrupted run resumes.
    """
    device = shelf.device
    products = product_dtype(device)
    table = original.embedding()
    head = original.head().to(device)
    eps = config.rms_norm_eps
    with progress("original model's predictions", 2 * config.num_hidden_layers) as step:
        targets = last_states(original, table, windows.train, shelf, "original", step, products)
        judges = _judges(original, table, windows.held_back, step, device)
    norm = original.final_norm().to(device)
    teacher = Head(norm, head.to(products), eps)
    judging_head = Head(norm, head, eps)
    student = Student(
        config,
        quantized,
        floats(quantized.embedding()).to(device).float(),
        neutral_blocks(config, quantized, device),
        products,
        _kept_bytes(device),
    )
    stored_norm = quantized.final_norm().to(device)
    stored_head = floats(quantized.head()).to(device).float()
    log_norm = torch.zeros_like(stored_norm)

    def judge(tuned: Tuned) -> dict[str, float]:
        states = _last_states(config, tuned.parts(quantized), student.table, windows.held_back)
        tuned_norm = tuned.final_norm(stored_norm.cpu()).to(device)
        tuned_head = Head(tuned_norm, stored_head, eps)
        return {
            name: mean_divergence(
                judging_head, judges[name].flatten(0, 1), tuned_head, states[name].flatten(0, 1)
            )
            for name in judges
        }

    def tuned(strength: float) -> Tuned:
        logs = [{name: log.cpu() for name, log in block.items()} for block in student.blocks]
        return Tuned(logs, log_norm.cpu(), strength, {}, {})

    before = judge(tuned(0.0))
    batches = torch.split(torch.arange(len(windows.train)), settings.batch)
    run = Training(
        student,
        log_norm,
        stored_norm,
        stored_head.to(products),
        teacher,
        windows.train,
        targets,
        [slice(int(batch[0]), int(batch[-1]) + 1) for batch in batches],
        settings,
        point,
    )
    run.all_steps(progress, lambda: _mean(judge(tuned(1.0))), _mean(before))
    return _chosen(tuned, judge, before)


def _judges(
    original: ModelWeights,
    table: torch.Tensor,
    held_back: Mapping[str, torch.Tensor],
    step: Step,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Last states of the original for the held-back windows, with products in FP32."""
    ids = torch.cat(list(held_back.values()))
    states = last_states(original, table, ids, Shelf(None, device), "judged", step, torch.float32)
    assert isinstance(states, torch.Tensor)
    pieces = torch.split(states, [len(windows) for windows in held_back.values()])
    return dict(zip(held_back, pieces, strict=True))


@torch.no_grad()
def _last_states(
    config: Phi3Config, parts: Parts, table: torch.Tensor, texts: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Last states of a model as it would be stored, with products in FP32; blocks are read once."""
    device = table.device
    states = {name: embed(table, ids.to(device)) for name, ids in texts.items()}
    length = next(iter(texts.values())).shape[1]
    context = sequence_context(config, length, device=device)
    for index in range(config.num_hidden_layers):
        stored = parts.block(index)
        block = {key: floats(tensor).to(device).float() for key, tensor in stored.items()}
        states = {name: decoder_block(block, context, hidden) for name, hidden in states.items()}
    return states


def _chosen(
    tuned: Callable[[float], Tuned],
    judge: Callable[[Tuned], Mapping[str, float]],
    before: Mapping[str, float],
) -> Tuned:
    """The strength with the least mean KL, among those that lose on no text."""
    best, least = (0.0, before), _mean(before)
    for strength in STRENGTHS:
        after = before if strength == 0 else judge(tuned(strength))
        gains = all(after[name] <= before[name] for name in before)
        if gains and _mean(after) < least:
            best, least = (strength, after), _mean(after)
    strength, after = best
    return replace(tuned(strength), before=before, after=after)


def _mean(scores: Mapping[str, float]) -> float:
    """Geometric mean, in which a text of small divergences counts as much as any other."""
    return math.exp(sum(math.log(max(score, 1e-12)) for score in scores.values()) / len(scores))


def _kept_bytes(device: torch.device) -> int:
    free = free_memory(device)
    return KEPT_BYTES if free is None else int(free * _KEPT_SHARE)
