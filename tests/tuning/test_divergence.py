"""Divergence and its gradient, next to autograd."""

import torch
from torch.nn import functional

from phi3quant.model.decoder_block import rms_norm
from phi3quant.tuning.divergence import Head, divergence, mean_divergence

ROWS, WIDTH, VOCABULARY = 1100, 16, 37


def _head(seed: int) -> Head:
    generator = torch.Generator().manual_seed(seed)
    return Head(
        torch.rand(WIDTH, generator=generator) + 0.5,
        torch.randn(VOCABULARY, WIDTH, generator=generator),
        1e-5,
    )


def _states(seed: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def _by_torch(
    original: Head, before: torch.Tensor, head: Head, after: torch.Tensor
) -> torch.Tensor:
    expected = functional.linear(rms_norm(before, original.norm, 1e-5), original.matrix)
    predicted = functional.linear(rms_norm(after, head.norm, 1e-5), head.matrix)
    return functional.kl_div(
        predicted.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
    )


def test_the_divergence_and_its_gradients_are_those_of_autograd() -> None:
    original, head, before, after = _head(0), _head(1), _states(2), _states(3)
    result = divergence(original, before, head, after)
    after.requires_grad_()
    head.norm.requires_grad_()
    mean = _by_torch(original, before, head, after)
    mean.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(result.mean, mean.item(), rtol=1e-5, atol=0)
    assert after.grad is not None
    torch.testing.assert_close(result.states, after.grad, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(result.norm, head.norm.grad, rtol=1e-4, atol=1e-7)


def test_the_mean_without_a_gradient_is_the_same() -> None:
    arguments = (_head(0), _states(2), _head(1), _states(3))
    assert abs(mean_divergence(*arguments) - divergence(*arguments).mean) < 1e-6


def test_equal_models_diverge_by_nothing() -> None:
    result = divergence(_head(0), _states(1), _head(0), _states(1))
    assert abs(result.mean) < 1e-7
    assert result.states.abs().max() < 1e-7
