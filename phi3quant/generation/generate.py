"""Text generation: an answer to a prompt, by a model of any format."""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from converters import open_located
from converters.gguf.decoder import LlamaDecoder, has_llama
from converters.gguf.reader import GgufCheckpoint
from converters.onnx.decoder import OnnxDecoder
from converters.onnx.reader import OnnxModel
from converters.stop_tokens import stop_tokens
from phi3quant.errors import InputError
from phi3quant.generation.decoder import BlockwiseDecoder, Decoder
from phi3quant.generation.sampling import Sampling, choose
from phi3quant.model.device import AUTO, CPU, computing_on, find_device
from phi3quant.source.locate import Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import Tokenizer, require_rows

DEFAULT_NEW_TOKENS = 256

TellText = Callable[[str], None]
"""Callback for pieces of text, in the order in which they are generated."""


@dataclass(frozen=True)
class Generated:
    """Generated text.

    Attributes:
        name: name of the model.
        format: storage format of the model.
        runtime: name of the runtime.
        prompt_tokens: number of tokens in the prompt, including the chat template.
        ids: generated token ids, without the final stop token.
        text: decoded ids.
        stopped: whether a stop token ended the text; otherwise the limit did.
        prompt_seconds: time until the first token.
        decode_seconds: time for all further tokens.
    """

    name: str
    format: str
    runtime: str
    prompt_tokens: int
    ids: tuple[int, ...]
    text: str
    stopped: bool
    prompt_seconds: float
    decode_seconds: float

    @property
    def prompt_rate(self) -> float:
        """Tokens of the prompt per second."""
        return self.prompt_tokens / max(self.prompt_seconds, 1e-9)

    @property
    def decode_rate(self) -> float | None:
        """Generated tokens per second after the first; None if there were none."""
        # A stop token costs as much as any other token.
        steps = len(self.ids) - (not self.stopped)
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else None

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            **asdict(self),
            "prompt_tokens_per_second": self.prompt_rate,
            "tokens_per_second": self.decode_rate,
        }


def generate(
    artifact: Model,
    prompt: str,
    *,
    raw: bool = False,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    revision: str | None = None,
    tell: TellText = lambda _text: None,
    device: str = AUTO,
) -> Generated:
    """Generate a text that continues or answers a prompt.

    ONNX folders run in onnxruntime, and GGUF files in llama.cpp if llama-cpp-python is installed.
    All other models are computed by phi3quant.generation.decoder.BlockwiseDecoder.

    Args:
        artifact: model of any format, hub id, or None for the bundled phi3-tiny.
        prompt: text, by default a user's turn of a chat.
        raw: whether to use the prompt as it is, without the chat template.
        max_new_tokens: limit on generated tokens; None for 256, or the rest of the context.
        sampling: choice of tokens; None to always take the best one.
        revision: revision of a hub id.
        tell: receives the text while it is generated.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        Phi3QuantError: see phi3quant.errors.

    Example:
        >>> generate("phi3-tiny", "What is the opposite of hot?").text
        'The opposite of hot is cold.'
    """
    _check_prompt(prompt)
    return generate_from(
        open_located(locate(artifact, revision)),
        prompt,
        raw=raw,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        tell=tell,
        device=device,
    )


def generate_from(
    opened: OpenedModel[StoredWeights | OnnxModel],
    prompt: str,
    *,
    raw: bool = False,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    tell: TellText = lambda _text: None,
    device: str = AUTO,
) -> Generated:
    """Generate a text as ``generate`` does, by a model that is already open.

    Args:
        opened: model of any format.
        prompt: see generate.
        raw: see generate.
        max_new_tokens: see generate.
        sampling: see generate.
        tell: see generate.
        device: see generate.

    Raises:
        Phi3QuantError: as generate.
    """
    _check_prompt(prompt)
    found = find_device(device)
    tokenizer = opened.tokenizer
    text = prompt
    if not raw:
        turn = {"role": "user", "content": prompt}
        # Templates print the date of the user's clock, as in transformers.
        today = dt.datetime.now()  # noqa: DTZ005
        text = tokenizer.render_chat([turn], add_generation_prompt=True, now=today)
    ids = tokenizer.encode(text)
    require_rows(tokenizer, ids, opened.config.vocab_size)
    room = _room(ids, opened.config.max_position_embeddings, max_new_tokens)
    stops = stop_tokens(opened)
    with torch.inference_mode(), computing_on(found):
        decoder = open_decoder(opened.model, len(ids) + room, found)
        run = _Answer(decoder, tokenizer, stops, sampling or Sampling(), tell)
        return run.write(opened.located.title, opened.model.format, ids, room)


def _check_prompt(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not UTF-8 (character {error.start})") from None


def open_decoder(
    model: StoredWeights | OnnxModel, context: int, device: torch.device = CPU
) -> Decoder:
    """Open the fastest decoder for a model.

    Args:
        model: model from converters.open_model.
        context: number of tokens in prompt and answer together.
        device: device that computes, unless a runtime does.

    Raises:
        Phi3QuantError: the runtime can't open the model.
    """
    if isinstance(model, OnnxModel):
        return OnnxDecoder(model)
    if isinstance(model, GgufCheckpoint) and has_llama():
        return LlamaDecoder(model, context)
    return BlockwiseDecoder(model, device=device)


@dataclass(frozen=True)
class _Answer:
    decoder: Decoder
    tokenizer: Tokenizer
    stops: frozenset[int]
    sampling: Sampling
    tell: TellText

    def write(self, name: str, kind: str, prompt: Sequence[int], room: int) -> Generated:
        """Generate until a stop token, or until there are ``room`` tokens."""
        generator = self.sampling.generator()
        started = time.perf_counter()
        number = choose(self.decoder.feed(prompt), self.sampling, generator)
        first = time.perf_counter()
        stream = _TextStream(self.tokenizer, self.tell)
        while number not in self.stops:
            stream.add(number)
            if len(stream.ids) == room:
                break
            number = choose(self.decoder.feed([number]), self.sampling, generator)
        stream.finish()
        return Generated(
            name=name,
            format=kind,
            runtime=self.decoder.runtime,
            prompt_tokens=len(prompt),
            ids=tuple(stream.ids),
            text=stream.text,
            stopped=number in self.stops,
            prompt_seconds=first - started,
            decode_seconds=time.perf_counter() - first,
        )


class _TextStream:
    """Stream of decoded tokens; an incomplete character waits for its remaining bytes."""

    def __init__(self, tokenizer: Tokenizer, tell: TellText) -> None:
        self._tokenizer, self._tell = tokenizer, tell
        self.ids: list[int] = []
        self.text = ""

    def add(self, number: int) -> None:
        self.ids.append(number)
        whole = self._tokenizer.decode(self.ids)
        if not whole.endswith("\ufffd"):
            self._advance(whole)

    def finish(self) -> None:
        self._advance(self._tokenizer.decode(self.ids))

    def _advance(self, whole: str) -> None:
        if len(whole) > len(self.text):
            self._tell(whole[len(self.text) :])
        self.text = whole


def _room(prompt: Sequence[int], context: int, asked: int | None) -> int:
    """Limit on the tokens to generate.

    Raises:
        InputError: the prompt is empty, or it and the requested tokens don't fit the context.
    """
    if not prompt:
        raise InputError("the prompt is empty; pass some text")
    left = context - len(prompt)
    if left < 1:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, and the model's context {context}: there is no "
            "room for an answer; shorten the prompt"
        )
    if asked is not None and asked > left:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, and the model's context {context}: there is "
            f"room for {left} new ones, not {asked}; pass --max-new-tokens {left} or less"
        )
    return min(left, DEFAULT_NEW_TOKENS) if asked is None else asked
