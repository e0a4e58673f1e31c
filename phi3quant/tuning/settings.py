"""Settings of tuning."""

from dataclasses import dataclass

from phi3quant.errors import SchemeError, require


@dataclass(frozen=True)
class TuningSettings:
    """Settings of tuning.

    Attributes:
        windows: largest number of windows to train on.
        passes: how often every window is seen.
        batch: windows per step.
        rate: highest learning rate, of the logarithms of scales and norms. It rises over the first
            steps and falls to zero along a cosine.
        seed: seed of the windows' order.

    Raises:
        SchemeError: a value has a wrong type or is out of range.
    """

    windows: int = 256
    passes: int = 2
    batch: int = 8
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("windows", "passes", "batch", "seed"):
            require(SchemeError, name, getattr(self, name), int)
        require(SchemeError, "rate", self.rate, int, float)
        if min(self.windows, self.passes, self.batch) < 1:
            raise SchemeError("tuning needs at least one window, one pass and one window per step")
        if not 0 < self.rate <= 0.1:
            raise SchemeError(f"a learning rate of {self.rate:g} is not between 0 and 0.1")

    def __str__(self) -> str:
        return f"{self.passes} passes of {self.windows} windows"

    def as_json(self) -> dict[str, int | float]:
        """Settings as JSON values for manifests."""
        return {
            "windows": self.windows,
            "passes": self.passes,
            "batch": self.batch,
            "learning_rate": self.rate,
            "seed": self.seed,
        }
