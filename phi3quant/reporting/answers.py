"""Sample answers of the original and its variants to the same prompts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi3quant.errors import Phi3QuantError
from phi3quant.evaluation.evaluate import Artifact
from phi3quant.generation.generate import generate_from
from phi3quant.model.device import AUTO
from phi3quant.progress import Progress, bars

PROMPTS = ("What is the opposite of hot?", "What is the capital of France?")
MAX_NEW_TOKENS = 32
ANSWER_SECONDS = 30.0
"""Time limit of one answer; a model may pass it by the time of one token."""
TOTAL_SECONDS = 240.0
"""Time after which no further answer is started."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to one prompt.

    Attributes:
        text: generated text; empty if there is none.
        note: reason why it is missing or cut short; empty if it is complete.
    """

    text: str
    note: str = ""


@dataclass(frozen=True)
class AnswerRow:
    """A model's answers.

    Attributes:
        name: of the model.
        runtime: software that computed them; empty if none was computed.
        answers: one for each prompt.
    """

    name: str
    runtime: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class SampleAnswers:
    """Answers of several models to the same prompts, decoded greedily.

    Attributes:
        prompts: user turns.
        rows: one for each model, the original first.
    """

    prompts: Sequence[str]
    rows: Sequence[AnswerRow]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"prompts": list(self.prompts), "rows": [asdict(row) for row in self.rows]}


class _OutOfTimeError(Exception):
    """Raised between two tokens to end an answer."""


def sample_answers(
    models: Sequence[tuple[str, Artifact]],
    progress: Progress = bars,
    prompts: Sequence[str] = PROMPTS,
    clock: Callable[[], float] = time.monotonic,
    device: str = AUTO,
) -> SampleAnswers:
    """Let models answer prompts; a failure becomes a note.

    Args:
        models: name and opened model of each, the original first.
        progress: display of the answers done.
        prompts: user turns of a chat.
        clock: seconds.
        device: device to compute on, unless a runtime does.
    """
    end = clock() + TOTAL_SECONDS
    rows = []
    with progress("sample answers", len(models) * len(prompts)) as step:
        for name, opened in models:
            answers, runtime = [], ""
            for prompt in prompts:
                answer, computed_by = _answer(opened, prompt, (end, clock), device)
                answers.append(answer)
                runtime = runtime or computed_by
                step()
            rows.append(AnswerRow(name, runtime, answers))
    return SampleAnswers(prompts, rows)


def _answer(
    opened: Artifact, prompt: str, time_limit: tuple[float, Callable[[], float]], device: str
) -> tuple[Answer, str]:
    """An answer and the runtime that computed it."""
    end, clock = time_limit
    if clock() >= end:
        return Answer("", f"left out: the time limit of {TOTAL_SECONDS:.0f} s was reached"), ""
    pieces: list[str] = []
    limit = clock() + ANSWER_SECONDS

    def keep(piece: str) -> None:
        pieces.append(piece)
        if clock() >= limit:
            raise _OutOfTimeError

    try:
        generated = generate_from(
            opened, prompt, max_new_tokens=MAX_NEW_TOKENS, tell=keep, device=device
        )
    except _OutOfTimeError:
        return Answer("".join(pieces), f"cut short after {ANSWER_SECONDS:.0f} s"), ""
    except Phi3QuantError as error:
        return Answer("".join(pieces), f"failed: {error}"), ""
    # Runtimes raise exceptions of their libraries; a page must not fail for a sample.
    except Exception as error:  # noqa: BLE001 - see above
        return Answer("".join(pieces), f"failed: {type(error).__name__}: {error}"), ""
    note = "" if generated.stopped else f"cut short at {MAX_NEW_TOKENS} tokens"
    return Answer(generated.text, note), generated.runtime
