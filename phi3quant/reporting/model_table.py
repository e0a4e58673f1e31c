"""Architecture of the model, in rows."""

from phi3quant.reporting.report import Report
from phi3quant.reporting.tables import Table
from phi3quant.reporting.variant import Variant


def model_table(report: Report) -> Table:
    """Size and shape of the model; a row for each model if the variants are of several."""
    names: dict[tuple[str, ...], list[str]] = {}
    for variant in report.variants:
        names.setdefault(_facts(variant), []).append(variant.name)
    one = report.measurement.reference_name if len(names) == 1 else ""
    rows = [[one or ", ".join(alike), *facts] for facts, alike in names.items()]
    headings = ["model", "parameters", "layers", "hidden size", "heads (KV)"]
    return Table("Model", [*headings, "context", "vocabulary"], rows, 1)


def _facts(variant: Variant) -> tuple[str, ...]:
    config = variant.config
    return (
        _count(variant.inspection.parameters),
        f"{config.num_hidden_layers}",
        f"{config.hidden_size:,}",
        f"{config.num_attention_heads} ({config.num_key_value_heads})",
        f"{config.max_position_embeddings:,} tokens",
        f"{config.vocab_size:,}",
    )


def _count(parameters: int) -> str:
    """Parameters in thousands, millions or billions."""
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.2f} {name}"
    return f"{parameters:,}"
