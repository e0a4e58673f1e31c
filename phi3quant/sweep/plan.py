"""Plan of a sweep: its jobs, each checked before any work starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calib.corpus import load_corpus, suitable
from calib.mixture import SELF, text_shares
from phi3quant.errors import MemoryLimitError, Phi3QuantError, SchemeError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.model.device import device_name, find_device
from phi3quant.model.precision import product_dtype
from phi3quant.provenance import manifest
from phi3quant.quant.methods import METHODS
from phi3quant.run import memory_budget, preflight
from phi3quant.run.admission import calibrated_sizes, checked_formats
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.sweep.grid import Grid, GridRecipe, ModelEntry
from phi3quant.sweep.job import Job, Subject, key_of, labels


@dataclass(frozen=True)
class Limits:
    """Device and memory that jobs may use.

    Attributes:
        device: device to compute on; see phi3quant.model.device.find_device.
        max_memory: limit on bytes of a job; None for the available memory.
    """

    device: str
    max_memory: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A combination of the grid that can't run.

    Attributes:
        title: model, as in the grid.
        label: recipe.
        reason: a sentence.
    """

    title: str
    label: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Jobs of a sweep.

    Attributes:
        jobs: jobs by model, without repetitions.
        refused: combinations that can't run.
        text: text to score on.
        limits: device and memory.
    """

    jobs: tuple[Job, ...]
    refused: tuple[Refusal, ...]
    text: EvaluationText
    limits: Limits


def make_plan(grid: Grid, limits: Limits, shared: SharedWork) -> Plan:
    """Open the models, hash them and check every job.

    Raises:
        Phi3QuantError: a text can't be read, or no model of the grid can be used.
    """
    find_device(limits.device)
    texts = _Texts(grid.text)
    jobs: list[Job] = []
    refused: list[Refusal] = []
    errors: list[Phi3QuantError] = []
    for entry in grid.models:
        try:
            opened = shared.opened(locate(entry.name, entry.revision, entry.adapters))
            subject = _subject(entry, opened, limits, texts, shared)
        except Phi3QuantError as error:
            errors.append(error)
            names = labels(grid.recipes)
            refused += [Refusal(str(entry), name, str(error)) for name in names]
            continue
        more, others = _jobs(subject, opened, grid.recipes, limits, texts)
        jobs += more
        refused += others
    if len(errors) == len(grid.models):
        raise errors[0]
    return Plan(tuple(jobs), tuple(refused), grid.text, limits)


def _subject(
    entry: ModelEntry,
    opened: OpenedModel[Checkpoint],
    limits: Limits,
    texts: "_Texts",
    shared: SharedWork,
) -> Subject:
    located = opened.located
    source = shared.described(located, manifest.source_files(located, opened.model.store.files))
    scored = {"source": source, "evaluation": texts.evaluation(opened), **_computed_on(limits)}
    return Subject(str(entry), located, source, opened.model.weight_bytes, key_of(scored))


def _jobs(
    subject: Subject,
    opened: OpenedModel[Checkpoint],
    recipes: tuple[GridRecipe, ...],
    limits: Limits,
    texts: "_Texts",
) -> tuple[list[Job], list[Refusal]]:
    """Jobs of a model; recipes that give the same result count once."""
    ready: dict[str, tuple[GridRecipe, Mapping[str, Any], int]] = {}
    refused = []
    for entry, label in zip(recipes, labels(recipes), strict=True):
        try:
            memory = _admitted(entry.recipe, opened, limits)
        except (SchemeError, MemoryLimitError) as error:
            refused.append(Refusal(subject.title, label, str(error)))
            continue
        identity = _identity(entry.recipe, subject, opened, limits, texts)
        ready.setdefault(key_of(identity), (entry, identity, memory))
    names = labels([entry for entry, _, _ in ready.values()])
    jobs = [
        Job(subject, entry.recipe, name, identity, memory)
        for name, (entry, identity, memory) in zip(names, ready.values(), strict=True)
    ]
    return jobs, refused


def _admitted(recipe: Recipe, opened: OpenedModel[Checkpoint], limits: Limits) -> int:
    """Resident bytes of a job at its peak.

    Raises:
        SchemeError: the recipe doesn't fit the model.
        MemoryLimitError: there is not enough memory.
    """
    checked_formats(recipe, opened.config)
    device = find_device(limits.device)
    sizes = calibrated_sizes(recipe)
    need = memory_budget.needs(opened.config, sizes, product_dtype(device).itemsize)
    place = preflight.place_of_states(need, limits.max_memory, device)
    return need.memory + (need.states if place is not memory_budget.Place.DISK else 0)


def _identity(
    recipe: Recipe,
    subject: Subject,
    opened: OpenedModel[Checkpoint],
    limits: Limits,
    texts: "_Texts",
) -> dict[str, Any]:
    """Everything that decides the result of a job."""
    calibrated = METHODS[recipe.method].calibrated
    return {
        "source": subject.source,
        "recipe": recipe.as_json(opened.config),
        "calibration": texts.calibration(opened, recipe) if calibrated else None,
        **({"tuned_on": list(map(str, recipe.calibration.sources))} if recipe.tuning else {}),
        "evaluation": texts.evaluation(opened),
        **_computed_on(limits),
    }


def _computed_on(limits: Limits) -> dict[str, str]:
    device = find_device(limits.device)
    # The CPU's model doesn't matter, as in manifests.
    return {"device": "cpu" if device.type == "cpu" else device_name(device)}


class _Texts:
    """Descriptions of texts with their hashes; each text is read once."""

    def __init__(self, evaluation: EvaluationText) -> None:
        self._evaluation = evaluation
        self._read: dict[tuple[str, str, str | None], dict[str, Any]] = {}

    def evaluation(self, opened: OpenedModel[Checkpoint]) -> dict[str, Any]:
        """Text to score on, by its content."""
        text = self._evaluation
        described = self._described(opened, text.source, "evaluation", text.field)
        return {**described, "length": text.length, "max_tokens": text.max_tokens}

    def calibration(self, opened: OpenedModel[Checkpoint], recipe: Recipe) -> dict[str, Any]:
        """Calibration texts, by their content; text that the model writes, by its name."""
        text = recipe.calibration
        shares = text_shares(text.sources or (suitable(opened.tokenizer),))
        if recipe.tuning is not None and len(shares) > 1:
            # As in calibration_windows: text that the model writes is left to tuning.
            shares = tuple(each for each in shares if each.written_windows is None)
        texts = [
            {"text": SELF, "written": each.written_windows}
            if each.written_windows is not None
            else self._described(opened, each.source, "calibration", text.field)
            for each in shares
        ]
        stated: dict[str, Any] = {"texts": texts, "shares": [each.share for each in shares]}
        if len(texts) == 1:
            stated = texts[0]
        return {**stated, "samples": text.samples, "length": text.length, "seed": text.seed}

    def _described(
        self, opened: OpenedModel[Checkpoint], source: Any, part: str, field: str | None
    ) -> dict[str, Any]:
        name = suitable(opened.tokenizer) if source is None else str(source)
        key = name, part, field
        if key not in self._read:
            self._read[key] = dict(load_corpus(name, part, field).as_json())
        return self._read[key]
