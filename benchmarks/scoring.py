"""Cost of scoring compared with transformers: same model, windows, threads and machine."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from converters import open_tokenizer, open_weights
from phi3quant.evaluation.evaluate import EvaluationText, text_windows
from phi3quant.gating.recorded import record, score_beside
from phi3quant.model.predictor import BlockwisePredictor


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--tokens", default=2048, show_default=True, help="Tokens to score per run.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(model: Path, tokens: int, repeats: int, threads: int) -> None:
    """Score MODEL with transformers and as phi3quant check does, and compare processor time."""
    torch.set_num_threads(threads)
    own = open_weights(model)
    text = EvaluationText(max_tokens=tokens)
    windows, _ = text_windows(text, open_tokenizer(model), own.config)
    losses, top = record(BlockwisePredictor(own), windows, lambda _steps: None)
    other = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def theirs() -> float:
        total = 0.0
        for window in windows:
            logits = other(window[None]).logits[0, :-1]
            total += float(functional.cross_entropy(logits, window[1:], reduction="sum"))
        return total / losses.numel()

    def ours() -> float:
        found = score_beside(losses, top, own, windows, lambda _steps: None)
        return float(found.candidate.nll.mean())

    costs: dict[str, list[float]] = {"transformers": [], "phi3quant": []}
    with torch.inference_mode():
        for _ in range(repeats):
            for name, run in (("transformers", theirs), ("phi3quant", ours)):
                cost, loss = _timed(run)
                costs[name].append(cost)
                click.echo(f"{name}: {cost:.2f} s of processor time, mean loss {loss:.5f}")
    one, two = (statistics.median(costs[name]) for name in ("phi3quant", "transformers"))
    click.echo(f"phi3quant takes {one / two:.2f} of what transformers takes")


def _timed(run: Callable[[], float]) -> tuple[float, float]:
    started = time.process_time()
    loss = run()
    return time.process_time() - started, loss


if __name__ == "__main__":
    main()
