"""Trials of changes to the method, on the real model.

first      weight of a window's first token in qkv_proj; phi3quant's is 100, that of other trials 1
weighted   the sums over tokens for compensation weight each token by the mean square of the loss's
           gradient by the linear's outputs (Fisher information), to a power
codes      tuning trains the codes too, rounded with a straight-through gradient
more       more windows for the codes before tuning, for the preset ``best``

    python -m benchmarks.method_trials -o build/trials --domain wiki_a.txt --text wiki_b.txt

Results are written after each row; a row that is there isn't run again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch

from benchmarks.tuning import (
    DOMAIN,
    Place,
    base_row,
    keep,
    opened_place,
    table,
    trial_options,
    tuned_row,
)
from calib import sensitivity
from calib.capture import Moments
from calib.sums import Sums
from converters import open_weights
from converters.parts import StoredBlock
from phi3quant import Calibration, QuantScheme, Recipe, TuningSettings
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.decoder_block import decoder_block, embed, sequence_context
from phi3quant.model.weights import ModelWeights, OnDevice
from phi3quant.quant.scaled_terms import Term
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run import one_block
from phi3quant.run.window_counts import held_back_windows
from phi3quant.tuning import tune as tuning
from phi3quant.tuning.factors import BlockTerms, settled
from phi3quant.tuning.student import Student

# Windows in a pass that measures gradients.
_BATCH = 8


def _recipe(source: str, samples: int, seed: int = 0) -> Recipe:
    calibration = Calibration(source, samples=samples, seed=seed)
    return Recipe(scheme=QuantScheme(4, 32), calibration=calibration)


@dataclass(frozen=True)
class Trial:
    """A base with a change, and possibly tuning of its result.

    Attributes:
        name: name of the row.
        recipe: recipe of the base; DOMAIN stands for the domain's text.
        power: power of the weights of tokens; 0: all alike.
        per: what has weights of its own; see _WEIGHTS.
        base: name of an earlier row to tune; empty: quantize by ``recipe``.
        tuning: amount of tuning.
        code_rate: learning rate of the codes, in steps of a code; 0: codes stay.
        first: weight of a window's first token in qkv_proj.
    """

    name: str
    recipe: Recipe
    power: float = 0.0
    per: str = "linear"
    base: str = ""
    tuning: TuningSettings = field(default_factory=TuningSettings)
    code_rate: float = 0.0
    first: float = 1.0


_GENERAL, _DOMAIN = partial(_recipe, "general"), partial(_recipe, DOMAIN)
_TWICE, _FOUR = TuningSettings(100_000, 2), TuningSettings(100_000, 4)

TRIALS: Sequence[Trial] = (
    Trial("general-128", _GENERAL(128)),
    Trial("codes-general-128-0", _GENERAL(128), base="general-128", tuning=_TWICE),
    *(
        Trial(
            f"codes-general-128-{rate:g}",
            _GENERAL(128),
            base="general-128",
            tuning=_TWICE,
            code_rate=rate,
        )
        for rate in (0.01, 0.03, 0.1)
    ),
    Trial("weighted-general-128-1", _GENERAL(128), power=1.0),
    Trial("weighted-general-128-0.5", _GENERAL(128), power=0.5),
    Trial("domain-64", _DOMAIN(64)),
    Trial("weighted-domain-64-1", _DOMAIN(64), power=1.0),
    Trial("weighted-domain-64-0.5", _DOMAIN(64), power=0.5),
    *(
        Trial(f"{per}-{name}-{power:g}", recipe, power=power, per=per)
        for name, recipe in (("general-128", _GENERAL(128)), ("domain-64", _DOMAIN(64)))
        for per, power in (
            *(("block", 0.5), ("model", 0.5), ("last", 0.5), ("last", 0.25), ("search", 0.5)),
            *(("linear", 0.25), ("linear", 0.75), ("model", 0.25)),
        )
    ),
    Trial("codes-domain-64-0", _DOMAIN(64), base="domain-64", tuning=_TWICE),
    Trial("codes-domain-64-0.03", _DOMAIN(64), base="domain-64", tuning=_TWICE, code_rate=0.03),
    *(
        Trial(f"first-{first}-{name}-seed-{seed}", recipe(seed=seed), first=first)
        for seed in (1, 2)
        for first in (1, 30, 5, 100)
        for name, recipe in (
            ("general-128", partial(_GENERAL, 128)),
            ("domain-64", partial(_DOMAIN, 64)),
        )
    ),
    Trial("more-general-256", _GENERAL(256)),
    Trial("more-general-256-tuned", _GENERAL(256), base="more-general-256", tuning=_TWICE),
    Trial("more-general-446", _GENERAL(446)),
    Trial("more-general-446-tuned", _GENERAL(446), base="more-general-446", tuning=_TWICE),
    Trial("more-general-446-tuned-4", _GENERAL(446), base="more-general-446", tuning=_FOUR),
    Trial("both-256", _GENERAL(256), power=0.5),
    Trial("both-256-tuned", _GENERAL(256), base="both-256", tuning=_TWICE),
    Trial("both-446", _GENERAL(446), power=0.5),
    Trial("both-446-tuned", _GENERAL(446), base="both-446", tuning=_TWICE),
)
"""Trials, each after its base."""


@click.command()
@trial_options
def main(
    output: Path,
    model: Path,
    domain: Path,
    text: Path,
    only: tuple[str, ...],
    device: str,
    seconds: float | None,
) -> None:
    """Run the trials that have no result in OUTPUT yet, and print a table."""
    started = time.monotonic()
    place, results = opened_place(output, model, domain, text, device)
    chosen = [each for each in TRIALS if not only or any(part in each.name for part in only)]
    wanted = {trial.name for trial in chosen} | {trial.base for trial in chosen}
    for trial in TRIALS:
        if trial.name not in wanted or trial.name in results:
            continue
        if seconds is not None and time.monotonic() - started > seconds:
            break
        results[trial.name] = _row(place, trial)
        keep(place, trial.name, results)
    print(table(results))


def _row(place: Place, trial: Trial) -> dict[str, Any]:
    if trial.base:
        text = trial.recipe.calibration.source
        change: Any = _trained_codes(trial.code_rate) if trial.code_rate else nullcontext()
        with change:
            return tuned_row(place, trial.name, trial.base, (str(text),), trial.tuning)
    weighted = _weighted(place.model, trial.power, trial.per) if trial.power else nullcontext()
    with weighted, patch("calib.streams.FIRST_TOKEN_WEIGHT", trial.first):
        return base_row(place, trial.name, trial.recipe)


# Tokens weighted by the gradient.


Weights = Sequence[torch.Tensor]
"""Weights of tokens for each linear in order, FP32 [windows, length]."""


def _alike(weights: Weights) -> Weights:
    return [torch.stack([each.clamp_min(1e-30).log() for each in weights]).mean(dim=0).exp()] * len(
        weights
    )


_WEIGHTS: Mapping[str, Callable[[Weights], Weights]] = {
    "linear": lambda weights: weights,
    "search": lambda weights: weights,
    # Of the output of attention, whose gradient is that of the residual stream.
    "block": lambda weights: [weights[number // 4 * 4 + 1] for number in range(len(weights))],
    "model": _alike,
    # The output of the last block.
    "last": lambda weights: [weights[-1]] * len(weights),
}
"""Weights by what has its own; for ``search``, the search of scales uses them too."""
_KNOWN: dict[bytes, Weights] = {}


@contextmanager
def _weighted(folder: Path, power: float, per: str) -> Iterator[None]:
    """Weight the tokens of the sums for compensation while a model is quantized."""
    started, weights = one_block.start, list[torch.Tensor]()
    searched: list[torch.Tensor] = []

    def start(
        config: Any, embedding: torch.Tensor, ids: torch.Tensor, shelf: Any, **rest: Any
    ) -> Any:
        seen = ids[held_back_windows(len(ids)) :] if len(ids) > 1 else ids
        key = seen.numpy().tobytes()
        if key not in _KNOWN:
            _KNOWN[key] = token_weights(OnDevice(open_weights(folder), shelf.device), seen)
        weights.extend(each.pow(power) for each in _WEIGHTS[per](_KNOWN[key]))
        searched.extend(weights)
        return started(config, embedding, ids, shelf, **rest)

    class Weighted(Sums):
        """Sums for the next linear."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._weights = weights.pop(0)
            self._weights = self._weights / self._weights.mean()
            self._done = 0

        def add(
            self, x: torch.Tensor, y: torch.Tensor, residual: torch.Tensor | None = None
        ) -> None:
            here = self._weights[self._done : self._done + len(x)].sqrt()[..., None].to(x.device)
            self._done += len(x)
            super().add(x * here, y * here, None if residual is None else residual * here)

    class Searched(Moments):
        """Sums of the search for the next linear."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._weights = searched.pop(0).flatten()
            self._weights = self._weights / self._weights.mean()
            self._done = 0

        def add(self, x: torch.Tensor) -> None:
            rows = x.reshape(-1, x.shape[-1])
            here = self._weights[self._done : self._done + len(rows)].sqrt()[:, None].to(x.device)
            self._done += len(rows)
            super().add(rows * here)

    search = patch("calib.capture.Moments", Searched) if per == "search" else nullcontext()
    with patch.object(one_block, "start", start), patch("calib.streams.Sums", Weighted), search:
        yield


def token_weights(model: ModelWeights, ids: torch.Tensor) -> list[torch.Tensor]:
    """Mean squares of the gradients by each linear's outputs, FP32 [windows, length], in order."""
    found: list[list[torch.Tensor]] = []
    norm_and_head = partial(sensitivity.through_head, model, candidates=lambda *_: (), seed=0)
    embedding = model.embedding()
    context = sequence_context(model.config, ids.shape[1], device=embedding.device)
    for batch in torch.split(ids.to(embedding.device), _BATCH):
        states = [embed(embedding, batch)]
        for index in range(model.config.num_hidden_layers):
            states.append(decoder_block(model.block(index), context, states[-1]).detach())
        _, gradient = norm_and_head(states.pop())
        rows = []
        for index in reversed(range(model.config.num_hidden_layers)):
            block = model.block(index)
            gradient, watched = sensitivity.through_block(block, context, states.pop(), gradient)
            squares = [watched[name].gradients.square().mean(dim=1) for name in LINEARS]
            rows += [each.view(batch.shape).cpu() for each in reversed(squares)]
        found.append(rows[::-1])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


# Codes trained with scales.


@dataclass(frozen=True)
class _CodedStudent(Student):
    """A student whose codes are trained too; they are FP32 numbers that are rounded for use."""

    codes: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def ready(self, index: int, logs: Mapping[str, torch.Tensor], codes: Block) -> Block:
        """The block with rounded codes; autograd follows both."""
        terms = self.terms(index)
        rounded = {
            key: (Term(value + (value.round() - value).detach(), terms.terms[key][0].scales),)
            for key, value in codes.items()
        }
        return BlockTerms(rounded, terms.plain).multiplied(logs, self.products)

    def _block(self, index: int) -> Block:
        return self.ready(index, self.blocks[index], self.codes[index])

    def backward(self, states: list[torch.Tensor], gradient: torch.Tensor) -> None:
        """See Student."""
        context = sequence_context(self.config, gradient.shape[1], device=self.device)
        states.pop()
        for index in reversed(range(self.config.num_hidden_layers)):
            logs, codes = self.blocks[index], self.codes[index]
            log_leaves = {key: each.detach().requires_grad_() for key, each in logs.items()}
            code_leaves = {key: each.detach().requires_grad_() for key, each in codes.items()}
            hidden = states.pop().requires_grad_()
            output = decoder_block(self.ready(index, log_leaves, code_leaves), context, hidden)
            leaves = [hidden, *log_leaves.values(), *code_leaves.values()]
            gradient, *others = torch.autograd.grad(output, leaves, gradient)
            for each, by in zip([*logs.values(), *codes.values()], others, strict=True):
                each.grad = by


@contextmanager
def _trained_codes(rate: float) -> Iterator[None]:
    """Train codes with the scales while a model is tuned."""
    students: list[_CodedStudent] = []

    def student(*arguments: Any) -> Student:
        made = _CodedStudent(*arguments)
        for index in range(made.config.num_hidden_layers):
            terms = made.terms(index).terms
            made.codes.append({key: values.values.float() for key, (values,) in terms.items()})
        students.append(made)
        return made

    adam = torch.optim.Adam

    def both(factors: Any, lr: float, betas: Any) -> "torch.optim.Adam":
        (made,) = students
        codes = [each for block in made.codes for each in block.values()]
        groups: list[dict[str, Any]] = [
            {"params": list(factors)},
            {"params": codes, "lr": rate},
        ]
        optimizer = adam(groups, lr=lr, betas=betas)
        optimizer.register_step_pre_hook(_follow(rate / lr))
        optimizer.register_step_post_hook(lambda *_: _clamp(codes))
        return optimizer

    def block(tuned: Any, index: int, stored: StoredBlock) -> StoredBlock:
        (made,) = students
        if tuned.strength == 0:
            return stored
        coded = {
            key: replace(tensor, codes=_stored(made.codes[index][key], tensor))
            if isinstance(tensor, QuantizedTensor)
            else tensor
            for key, tensor in stored.items()
        }
        return settled(coded, tuned.blocks[index], tuned.strength)

    with (
        patch("phi3quant.tuning.tune.Student", student),
        patch("torch.optim.Adam", both),
        patch.object(tuning.Tuned, "block", block),
    ):
        yield


def _follow(ratio: float) -> Callable[..., None]:
    """Hook that lets the codes' rate follow the schedule of the scales' rate."""

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        first, second = optimizer.param_groups
        second["lr"] = ratio * first["lr"]

    return hook


@torch.no_grad()
def _clamp(codes: Sequence[torch.Tensor]) -> None:
    for each in codes:
        each.clamp_(-8, 7)


def _stored(values: torch.Tensor, tensor: QuantizedTensor) -> torch.Tensor:
    codes = values.round().add_(tensor.scheme.middle).to(torch.uint8).cpu()
    return codes.view(tensor.codes.shape)


if __name__ == "__main__":
    main()
