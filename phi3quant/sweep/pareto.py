"""Choices among artifacts: the front of size and loss, and the best below a size."""

from collections.abc import Sequence

from phi3quant.sweep.outcome import Scored


def front(points: Sequence[tuple[float, float | None]]) -> list[int]:
    """Indices of the points that no other one beats, the smallest first.

    A point is beaten by one that is at most as large and loses less, or is smaller and loses at
    most as much. Of equal points the first counts.

    Args:
        points: size and loss; points without a loss are left out.

    Examples:
        >>> front([(3, 0.1), (2, 0.2), (4, 0.1), (5, 0.05), (2, None)])
        [1, 0, 3]
    """
    ranked = sorted(
        (size, loss, index) for index, (size, loss) in enumerate(points) if loss is not None
    )
    kept: list[int] = []
    least = float("inf")
    for _, loss, index in ranked:
        if loss < least:
            least = loss
            kept.append(index)
    return kept


def best_under(artifacts: Sequence[Scored], limit: float) -> int | None:
    """Index of the artifact with the lowest mean KL among those of at most ``limit`` bytes.

    Of artifacts with one KL, the smallest counts. KL is less noisy than perplexity on short texts.

    Returns:
        None if none fits.
    """
    fitting = [
        (each.figures.kl_mean, each.nbytes, index)
        for index, each in enumerate(artifacts)
        if each.nbytes <= limit and each.figures.kl_mean is not None
    ]
    return min(fitting)[2] if fitting else None
