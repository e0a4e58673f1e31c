"""Gains of tuning on the real model, by text, amount and learning rate.

Quantizes once for each text and type, tunes the results, and scores everything on texts that
nothing was tuned on. Results are written after each row; a row that is there isn't run again.

    python -m benchmarks.tuning -o build/tuning --domain wiki_a.txt --text wiki_b.txt
    python -m benchmarks.tuning -o build/tuning --domain wiki_a.txt --text wiki_b.txt --only self

WIKI_A is a text of the domain, for calibration, and WIKI_B another part of it; see docs/quality.md.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks import ROOT
from benchmarks.machine import described
from phi3quant import Calibration, EvaluationText, QuantScheme, Recipe, TuningSettings, quantize
from phi3quant import evaluate as scored
from phi3quant.progress import silent
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.conduct import Conduct
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.tune_artifact import tune_artifact
from phi3quant.source.locate import locate

_DIALOGUE = ROOT / "benchmarks" / "quality" / "texts" / "dialogue_with_code.jsonl"
DOMAIN = "DOMAIN"
"""Stands for the path of the domain's text."""
# More windows than any text here has.
_ALL = 100_000
# Tokens that are scored of the domain's text, and of a window.
_SCORED, _WINDOW = 24_576, 1024

BASES: Mapping[str, Recipe] = {
    "bundled": Recipe(scheme=QuantScheme(4, 32), calibration=Calibration("general", samples=128)),
    "domain": Recipe(scheme=QuantScheme(4, 32), calibration=Calibration(DOMAIN)),
    "domain-256": Recipe(scheme=QuantScheme(4, 32), calibration=Calibration(DOMAIN, samples=256)),
    "domain-q4_k_m": Recipe(formats=("gguf",), gguf_type="Q4_K_M", calibration=Calibration(DOMAIN)),
    "bundled-q4_k_m": Recipe(
        formats=("gguf",), gguf_type="Q4_K_M", calibration=Calibration("general", samples=128)
    ),
}
"""Recipes before tuning, by name."""


@dataclass(frozen=True)
class Trial:
    """One way to tune a base.

    Attributes:
        base: key of BASES.
        texts: texts to tune on.
        settings: amount and rate.
    """

    base: str
    texts: tuple[str, ...]
    settings: TuningSettings

    @property
    def name(self) -> str:
        """Base, texts, amount and rate in one word."""
        windows = "all" if self.settings.windows == _ALL else str(self.settings.windows)
        texts = "+".join(self.texts).replace(":", "")
        return (
            f"{self.base}/{texts}-{windows}x{self.settings.passes}-{self.settings.rate:g}"
        ).lower()


def _trial(base: str, texts: str, windows: int, passes: int, rate: float = 1e-3) -> Trial:
    return Trial(base, tuple(texts.split()), TuningSettings(windows, passes, rate=rate))


TRIALS: Sequence[Trial] = (
    _trial("bundled", "general self:512", _ALL, 2),
    _trial("domain", DOMAIN, _ALL, 2),
    _trial("bundled", "general self:64", 128, 1),
    _trial("bundled", "general", _ALL, 4),
    _trial("domain", DOMAIN, 256, 2),
    _trial("domain-q4_k_m", DOMAIN, _ALL, 2),
    _trial("bundled", "general self:512", _ALL, 2, 2e-3),
    _trial("bundled", "general self:512", _ALL, 2, 5e-4),
    _trial("domain", DOMAIN, _ALL, 2, 2e-3),
    _trial("bundled", "general self:512", _ALL, 4),
    _trial("bundled", "general self:256", _ALL, 2),
    _trial("domain-256", DOMAIN, _ALL, 2),
    _trial("domain", f"{DOMAIN} self:512", _ALL, 2),
    _trial("bundled-q4_k_m", "general self:512", _ALL, 2),
    _trial("domain", DOMAIN, _ALL, 4),
)
"""Trials, the most telling first."""


@dataclass(frozen=True)
class Place:
    """Model, text of the domain, scored texts, device, and folder of results."""

    model: Path
    domain: Path
    texts: tuple[EvaluationText, ...]
    device: str
    folder: Path
    shared: SharedWork

    @property
    def results(self) -> Path:
        """File of the results."""
        return self.folder / "results.json"

    def path(self, name: str) -> Path:
        """Folder of a base or a trial."""
        return self.folder / name.replace("/", "--").replace(":", "")

    def conduct(self) -> Conduct:
        """Conduct of a run on this device."""
        return Conduct(device=self.device, shared=self.shared)

    def calibration(self, calibration: Calibration) -> Calibration:
        """A calibration with the real path of the domain's text."""
        source = calibration.source
        return replace(calibration, source=str(self.domain)) if source == DOMAIN else calibration


def trial_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command that runs trials."""
    options = (
        click.option("-o", "--output", type=click.Path(path_type=Path), required=True),
        click.option("--model", type=click.Path(path_type=Path), default=ROOT / "models" / "real"),
        click.option("--domain", type=click.Path(path_type=Path, exists=True), required=True),
        click.option("--text", type=click.Path(path_type=Path, exists=True), required=True),
        click.option("--only", multiple=True, help="Trials with this in their name."),
        click.option("--device", default="auto", show_default=True),
        click.option("--seconds", type=float, help="Begin no more trials after this time."),
    )
    for option in reversed(options):
        command = option(command)
    return command


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
    for trial in TRIALS:
        if only and not any(part in trial.name for part in only):
            continue
        if seconds is not None and time.monotonic() - started > seconds:
            break
        if trial.base not in results:
            results[trial.base] = base_row(place, trial.base, BASES[trial.base])
            keep(place, trial.base, results)
        if trial.name not in results:
            results[trial.name] = tuned_row(
                place, trial.name, trial.base, trial.texts, trial.settings
            )
            keep(place, trial.name, results)
    print(table(results))


def opened_place(
    output: Path, model: Path, domain: Path, text: Path, device: str
) -> tuple[Place, dict[str, Any]]:
    """Folder of the results, and those that are there."""
    texts = (
        EvaluationText(text, length=_WINDOW, max_tokens=_SCORED),
        EvaluationText("general", length=_WINDOW),
        EvaluationText(_DIALOGUE, length=_WINDOW),
    )
    output.mkdir(parents=True, exist_ok=True)
    place = Place(model, domain, texts, device, output, SharedWork())
    results: dict[str, Any] = {"machine": described()}
    if place.results.is_file():
        results = json.loads(place.results.read_text(encoding="utf-8"))
    return place, results


def base_row(place: Place, name: str, recipe: Recipe) -> dict[str, Any]:
    """Quantize the model by a recipe, and score the result."""
    recipe = replace(recipe, calibration=place.calibration(recipe.calibration))
    return _timed(
        place,
        name,
        lambda out: quantize(
            place.model, out, recipe, progress=silent, overwrite=True, conduct=place.conduct()
        ),
    )


def tuned_row(
    place: Place, name: str, base: str, texts: Sequence[str], settings: TuningSettings
) -> dict[str, Any]:
    """Tune the result of another row on texts, and score it."""
    source = tuple(str(place.domain) if each == DOMAIN else each for each in texts)
    return _timed(
        place,
        name,
        lambda out: tune_artifact(
            locate(str(place.path(base))),
            str(place.model),
            out,
            settings,
            calibration=Calibration(source),
            progress=silent,
            overwrite=True,
            conduct=place.conduct(),
        ),
    )


def _timed(place: Place, name: str, make: Callable[[Path], Artifacts]) -> dict[str, Any]:
    """Seconds, tuning and scores of an artifact that ``make`` writes."""
    started = time.monotonic()
    out = place.path(name)
    artifacts = make(out)
    seconds = time.monotonic() - started
    evaluations = [
        scored([place.model, out], text, progress=silent, device=place.device)
        for text in place.texts
    ]
    rows = [each.as_json()["models"][1] for each in evaluations]
    tuning = dict(artifacts.tuning or {})
    return {
        "seconds": seconds,
        "scoring_seconds": time.monotonic() - started - seconds,
        "tuning": {key: tuning[key] for key in ("windows", "strength") if key in tuning},
        "held_back": {key: tuning[key] for key in ("kl_before", "kl_after") if key in tuning},
        "scores": rows,
    }


def keep(place: Place, name: str, results: Mapping[str, Any]) -> None:
    """Write all results, and print one."""
    place.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(_row(name, results[name]), flush=True)


def table(results: Mapping[str, Any]) -> str:
    """All results as a table."""
    lines = [results["machine"], ""]
    lines.append("| | seconds | strength | domain | KL | bundled | KL | dialogues | KL |")
    lines.append("|---|---|---|---|---|---|---|---|---|")
    return "\n".join(
        [*lines, *(_row(name, each) for name, each in results.items() if name != "machine")]
    )


def _row(name: str, result: Mapping[str, Any]) -> str:
    scores = " | ".join(
        f"{100 * (row['ratio'] - 1):+.2f}% | {row['kl_mean']:.4f}" for row in result["scores"]
    )
    strength = result["tuning"].get("strength", "")
    return f"| {name} | {result['seconds']:.0f} | {strength} | {scores} |"


if __name__ == "__main__":
    main()
