"""Which matrix gets how many bits, so that a budget buys the least loss."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3quant.errors import SchemeError


@dataclass(frozen=True)
class Option:
    """One way to store a matrix.

    Attributes:
        name: of the way.
        nbytes: what it takes.
        cost: what it costs the model, in any unit that adds up.
    """

    name: str
    nbytes: int
    cost: float


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, str]:
    """Choose an option for each matrix within a budget of bytes.

    Starts with the smallest of each and buys, again and again, the step that lowers the cost most
    for each byte, along the lower convex hull of each matrix' options. That is the best choice for
    the budgets that it meets exactly; others it fills up with the best steps that still fit.

    Args:
        options: at least one for each matrix.
        budget: bytes that all matrices together may take.

    Returns:
        The name of each matrix' option.

    Raises:
        SchemeError: even the smallest options don't fit.
    """
    hulls = {matrix: _hull(ways) for matrix, ways in options.items()}
    left = budget - sum(hull[0].nbytes for hull in hulls.values())
    if left < 0:
        raise SchemeError(
            f"{budget / 1e6:.1f} MB is less than the smallest types take, "
            f"{(budget - left) / 1e6:.1f} MB"
        )
    chosen = dict.fromkeys(hulls, 0)
    # By falling gain for each byte; names break ties, so that results don't depend on order.
    steps = [(-_gain(hull, 0), matrix) for matrix, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, matrix = heapq.heappop(steps)
        hull, now = hulls[matrix], chosen[matrix]
        price = hull[now + 1].nbytes - hull[now].nbytes
        if price > left:
            continue
        left -= price
        chosen[matrix] = now + 1
        if now + 2 < len(hull):
            heapq.heappush(steps, (-_gain(hull, now + 1), matrix))
    return {matrix: hull[chosen[matrix]].name for matrix, hull in hulls.items()}


def _gain(hull: Sequence[Option], index: int) -> float:
    """Cost that the step after ``index`` saves for each byte."""
    here, there = hull[index], hull[index + 1]
    return (here.cost - there.cost) / (there.nbytes - here.nbytes)


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options that are worth their bytes, from small to large, each step gaining less."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.nbytes, each.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        if hull and option.nbytes == hull[-1].nbytes:
            continue
        while len(hull) > 1 and _gain([hull[-2], option], 0) >= _gain(hull, len(hull) - 2):
            hull.pop()
        hull.append(option)
    return hull
