"""Table of criteria: a name, and a function that gathers its points."""

from collections.abc import Callable, Iterable, Mapping

from phi3quant.auditing.criteria.architecture import architecture_provenance
from phi3quant.auditing.criteria.benchmarks import benchmark_reproducibility
from phi3quant.auditing.criteria.footprint import hardware_footprint
from phi3quant.auditing.criteria.identity import identity_consistency
from phi3quant.auditing.criteria.licence import licence
from phi3quant.auditing.criteria.parameters import parameter_count
from phi3quant.auditing.criteria.tokenizer import tokenizer_integrity
from phi3quant.auditing.criteria.training_compute import training_compute
from phi3quant.auditing.criteria.training_data import dataset_disclosure
from phi3quant.auditing.criteria.versioning import versioning
from phi3quant.auditing.finding import Point
from phi3quant.auditing.subject import Subject

CRITERIA: Mapping[str, Callable[[Subject], Iterable[Point]]] = {
    "architecture provenance": architecture_provenance,
    "dataset disclosure": dataset_disclosure,
    "tokenizer integrity": tokenizer_integrity,
    "parameter count": parameter_count,
    "training compute": training_compute,
    "benchmark reproducibility": benchmark_reproducibility,
    "identity consistency": identity_consistency,
    "licence": licence,
    "hardware footprint": hardware_footprint,
    "versioning": versioning,
}
