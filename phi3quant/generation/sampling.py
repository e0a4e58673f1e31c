"""How the next token is chosen."""

from dataclasses import dataclass

import torch

from phi3quant.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How: the same choices for the same scores each time.

    Attributes:
        temperature: 0 always takes the best token; more flattens the choice.
        top_p: draw among the best tokens that have so much probability together.
        seed: of the draws.

    Raises:
        InputError: a number makes no sense.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"a temperature of {self.temperature} makes no sense; choose 0 to 2")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}; it must be above 0 and at most 1")

    def generator(self) -> torch.Generator:
        """Where draws come from: the same ones each time."""
        return torch.Generator().manual_seed(self.seed)


def choose(scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token.

    Args:
        scores: FP32 [vocab].
        sampling: how.
        generator: from ``sampling.generator``, used for a whole text.
    """
    if sampling.temperature == 0:
        return int(scores.argmax())
    chances, order = torch.sort((scores / sampling.temperature).softmax(dim=-1), descending=True)
    # The token that crosses the limit still counts (Holtzman et al., 2019, nucleus sampling).
    chances[chances.cumsum(dim=-1) - chances >= sampling.top_p] = 0
    return int(order[torch.multinomial(chances, 1, generator=generator)])
