"""Choice of the next token."""

from dataclasses import dataclass

import torch

from phi3quant.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """Settings of reproducible sampling.

    Attributes:
        temperature: 0 to always take the best token; higher values flatten the distribution.
        top_p: total probability of the best tokens that are sampled from.
        seed: sampling seed.

    Raises:
        InputError: a number is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(
                f"temperature is {self.temperature}; it must be 0 or more, usually 0 to 2"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}; it must be above 0 and at most 1")

    def generator(self) -> torch.Generator:
        """Create the random generator, which gives the same numbers each time."""
        return torch.Generator().manual_seed(self.seed)


def choose(scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Choose the next token.

    Args:
        scores: FP32 [vocab].
        sampling: settings of the choice.
        generator: generator from ``sampling.generator``, used for a whole text.
    """
    if sampling.temperature == 0:
        return int(scores.argmax())
    chances, order = torch.sort((scores / sampling.temperature).softmax(dim=-1), descending=True)
    # The token that crosses the limit is included (Holtzman et al., 2019, nucleus sampling).
    chances[chances.cumsum(dim=-1) - chances >= sampling.top_p] = 0
    return int(order[torch.multinomial(chances, 1, generator=generator)])
