"""Tuning of small models: gradients, gain, held-back windows, resuming."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calib.activations import Shelf
from converters import open_weights
from converters.parts import Parts
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.model.decoder_block import decoder_block, embed, sequence_context
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import silent
from phi3quant.quant.codecs import Codec
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.scheme import QuantScheme
from phi3quant.tuning import resume_point
from phi3quant.tuning.resume_point import ResumePoint
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.student import Student, neutral_blocks
from phi3quant.tuning.tune import Tuned, Windows, tune
from tests.models import VARIANTS, VOCABULARY

CODECS: dict[str, Codec] = {
    "sym": AffineCodec(QuantScheme(4, 32)),
    "asym": AffineCodec(QuantScheme(4, 32, symmetric=False)),
    "q5_1": BlockCodec(TYPES["Q5_1"]),
}
CPU = torch.device("cpu")


def _quantized(model: ModelWeights, codec: Codec) -> Parts:
    blocks = [
        {key: codec.quantize(part) if key in LINEARS else part for key, part in block.items()}
        for block in map(model.block, range(model.config.num_hidden_layers))
    ]
    return Parts(None, model.embedding, blocks.__getitem__, model.final_norm, model.head)


def _windows(train: int = 16, length: int = 24) -> Windows:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (train + 6, length), generator=generator)
    return Windows(ids[6:], {"one": ids[:3], "other": ids[3:6]})


def _tune(
    model: ModelWeights, parts: Parts, settings: TuningSettings, train: int = 16, **more: object
) -> Tuned:
    return tune(
        model,
        parts,
        model.config,
        _windows(train),
        settings,
        more.pop("shelf", Shelf()),  # type: ignore[arg-type]
        silent,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_streaming_pass_are_those_of_the_whole_model(
    variant: str, codec: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    model = open_weights(checkpoint_folder(variant))
    parts, config = _quantized(model, CODECS[codec]), model.config
    logs = neutral_blocks(config, parts, CPU)
    for number, log in enumerate(log for block in logs for log in block.values()):
        log.normal_(0, 0.1, generator=torch.Generator().manual_seed(number))
    student = Student(config, parts, model.embedding(), logs, torch.float32, 0)
    ids = _windows().train[:2]
    weight = torch.randn(2, 24, config.hidden_size, generator=torch.Generator().manual_seed(1))
    states = student.forward(ids)
    last = states[-1]
    student.backward(states, weight)

    leaves = [{name: log.clone().requires_grad_() for name, log in block.items()} for block in logs]
    hidden = embed(model.embedding(), ids)
    context = sequence_context(config, 24)
    for index, block_leaves in enumerate(leaves):
        block = student.terms(index).multiplied(block_leaves, torch.float32)
        hidden = decoder_block(block, context, hidden)
    torch.testing.assert_close(last, hidden, rtol=1e-4, atol=1e-4)
    (hidden * weight).sum().backward()  # type: ignore[no-untyped-call]
    for block, block_leaves in zip(logs, leaves, strict=True):
        for name, log in block.items():
            torch.testing.assert_close(log.grad, block_leaves[name].grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_tuning_brings_held_back_windows_closer(
    codec: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    model = open_weights(checkpoint_folder("gqa"))
    parts = _quantized(model, CODECS[codec])
    tuned = _tune(model, parts, TuningSettings(passes=3, batch=8, rate=2e-3), train=160)
    assert tuned.strength > 0
    assert all(tuned.after[name] < before for name, before in tuned.before.items())
    stored = tuned.parts(parts)
    for index in range(model.config.num_hidden_layers):
        before, after = parts.block(index), stored.block(index)
        for key in BLOCK_TENSORS:
            assert not torch.equal(_floats(before[key]), _floats(after[key]))


def test_what_doesnt_help_is_rolled_back(checkpoint_folder: Callable[[str], Path]) -> None:
    model = open_weights(checkpoint_folder("gqa"))
    parts = _quantized(model, AffineCodec(QuantScheme(8, 32)))
    # Steps of this size destroy a model of 8 bits, and so does half of the change.
    tuned = _tune(model, parts, TuningSettings(passes=4, batch=8, rate=0.1))
    assert tuned.strength == 0
    assert tuned.after == tuned.before
    assert tuned.parts(parts).block(0) is parts.block(0)
    assert torch.equal(tuned.parts(parts).final_norm(), parts.final_norm())


def test_states_on_disk_give_the_same_result(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = open_weights(checkpoint_folder("tied"))
    parts = _quantized(model, CODECS["sym"])
    settings = TuningSettings(passes=2, batch=5)
    memory = _tune(model, parts, settings)
    _assert_equal(memory, _tune(model, parts, settings, shelf=Shelf(tmp_path)))


class _StoppedError(Exception):
    """An interruption."""


def test_an_interrupted_tuning_resumes_to_the_same_bytes(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_weights(checkpoint_folder("gqa"))
    parts, settings = _quantized(model, CODECS["asym"]), TuningSettings(passes=3, batch=4)
    whole = _tune(model, parts, settings)
    monkeypatch.setattr(resume_point, "_EVERY_SECONDS", 0.0)
    keep = ResumePoint.keep

    def interrupted(self: ResumePoint, done: int, *rest: object) -> None:
        keep(self, done, *rest)  # type: ignore[arg-type]
        if done == 5:
            raise _StoppedError

    path = tmp_path / "tuning.safetensors"
    monkeypatch.setattr(ResumePoint, "keep", interrupted)
    with pytest.raises(_StoppedError):
        _tune(model, parts, settings, point=ResumePoint(path))
    assert path.exists()
    monkeypatch.setattr(ResumePoint, "keep", keep)
    _assert_equal(whole, _tune(model, parts, settings, point=ResumePoint(path)))


def test_blocks_that_are_read_for_every_pass_give_the_same_result(
    checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_weights(checkpoint_folder("gqa"))
    parts, settings = _quantized(model, CODECS["sym"]), TuningSettings(passes=1, batch=4)
    kept = _tune(model, parts, settings)
    monkeypatch.setattr("phi3quant.tuning.tune.KEPT_BYTES", 0)
    _assert_equal(kept, _tune(model, parts, settings))


def test_the_order_of_windows_depends_on_the_seed(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    model = open_weights(checkpoint_folder("gqa"))
    parts, settings = _quantized(model, CODECS["sym"]), TuningSettings(passes=1, batch=4)
    one, other = _tune(model, parts, settings), _tune(model, parts, replace(settings, seed=1))
    assert not torch.equal(one.norm, other.norm)


def _floats(tensor: object) -> torch.Tensor:
    if isinstance(tensor, torch.Tensor):
        return tensor
    values: torch.Tensor = tensor.dequantize()  # type: ignore[attr-defined]
    return values


def _assert_equal(one: Tuned, other: Tuned) -> None:
    assert torch.equal(one.norm, other.norm)
    for first, second in zip(one.blocks, other.blocks, strict=True):
        for name, log in first.items():
            assert torch.equal(log, second[name]), name
    assert one.as_json() == other.as_json()
