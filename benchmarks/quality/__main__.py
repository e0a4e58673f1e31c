"""``python -m benchmarks.quality``: measure missing rows, then write table and plot.

python -m benchmarks.quality                          everything
python -m benchmarks.quality --only llama --only Q4_0
python -m benchmarks.quality --model models/real --calib a.txt --text b.txt --text general
"""

import os
from pathlib import Path

import click

from benchmarks import ROOT
from benchmarks.peers.tools import source_of
from benchmarks.quality.entries import chosen
from benchmarks.quality.measure import measure
from benchmarks.quality.report import write_report
from benchmarks.quality.result import key_of, load_result, save_result
from benchmarks.quality.subject import Subject
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.source.locate import BUNDLED, bundled_folder


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    help=f"May be repeated.  [default: models/real and {BUNDLED}]",
)
@click.option("--calib", default="general", show_default=True, help="Text to calibrate on.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    default=["general"],
    show_default=True,
    help="Text to score on; may be repeated.",
)
@click.option("--samples", default=64, show_default=True, help="Calibration windows.")
@click.option("--seq-len", default=512, show_default=True, help="Tokens per calibration window.")
@click.option("--window", default=1024, show_default=True, help="Tokens per scored window.")
@click.option("--max-tokens", type=int, help="Tokens of each text to score.  [default: all]")
@click.option("--only", multiple=True, help="Rows with this in their name, or ours, or peers.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the artifacts.")
@click.option("--report", is_flag=True, help="Only write the report; measure nothing.")
@click.option("--docs", type=click.Path(path_type=Path), default=ROOT / "docs", show_default=True)
def main(
    models: tuple[Path, ...],
    calib: str,
    texts: tuple[str, ...],
    samples: int,
    seq_len: int,
    window: int,
    max_tokens: int | None,
    only: tuple[str, ...],
    threads: int,
    *,
    keep: bool,
    report: bool,
    docs: Path,
) -> None:
    """Compare the quality of models quantized by phi3quant and by its peers.

    The bundled model is always calibrated and scored on its own texts. Results are kept in
    benchmarks/quality/results and measured again after a change of the model, the texts, the
    settings or the source code.
    """
    use_threads(threads)
    subjects = []
    for model in models or (ROOT / "models" / "real", Path(BUNDLED)):
        bundled = str(model) == BUNDLED
        scored = tuple(
            EvaluationText(_absolute(text), length=window, max_tokens=max_tokens)
            for text in (("tiny",) if bundled else texts)
        )
        folder = bundled_folder() if bundled else model.resolve()
        used = "tiny" if bundled else _absolute(calib)
        subjects.append(Subject(model.name, folder, used, scored, samples, seq_len))
    for entry in chosen(only) if not report else ():
        for subject in subjects:
            if entry.small and subject.name != BUNDLED:
                continue
            known = load_result(entry, subject)
            due = (key_of(entry, subject), source_of(entry.tool, entry.settings))
            if (
                known is not None
                and (known.key, known.source) == due
                and (known.refused or known.scores.keys() >= {*subject.text_hashes})
            ):
                continue
            click.echo(f"{subject.name}: {entry.title}")
            result = measure(entry, subject, threads, keep=keep)
            save_result(entry, subject, result)
            if result.refused is not None:
                click.echo(f"  refused: {result.refused}")
                continue
            increases = " ".join(f"{result.increase(text):+.2%}" for text in subject.text_hashes)
            click.echo(f"  {result.linear_bits:.3f} bits a weight, perplexity {increases}")
    write_report(subjects, docs)


def _absolute(text: str) -> str:
    """Absolute path of a text file, for tools that start in another folder; other names as is."""
    return str(Path(text).resolve()) if Path(text).exists() else text


if __name__ == "__main__":
    main()
