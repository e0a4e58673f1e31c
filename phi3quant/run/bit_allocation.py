"""Allocation of bits to matrices, for the least loss within a budget."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3quant.errors import SchemeError


@dataclass(frozen=True)
class Option:
    """Way to store a matrix.

    Attributes:
        name: name of the way.
        nbytes: size of the stored matrix.
        cost: loss of the model, in any additive unit.
    """

    name: str
    nbytes: int
    cost: float


def least_bytes(options: Mapping[str, Sequence[Option]]) -> int:
    """Bytes of all matrices with the smallest option of each."""
    return sum(min(way.nbytes for way in ways) for ways in options.values())


def total_cost(options: Mapping[str, Sequence[Option]], chosen: Mapping[str, str]) -> float:
    """Loss of the model if each matrix is stored as chosen."""
    return sum(
        way.cost for matrix, ways in options.items() for way in ways if way.name == chosen[matrix]
    )


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, str]:
    """Choose an option for each matrix within a budget of bytes.

    The search starts with the smallest option of each matrix. It repeatedly takes the step with the
    largest decrease in cost per byte, along the lower convex hull of each matrix' options. The
    result is optimal if it uses the budget exactly; otherwise the best steps that still fit fill
    the rest.

    Args:
        options: options of each matrix, at least one.
        budget: limit on the bytes of all matrices together.

    Returns:
        Name of the chosen option for each matrix.

    Raises:
        SchemeError: even the smallest options don't fit.
    """
    hulls = {matrix: _hull(ways) for matrix, ways in options.items()}
    left = budget - sum(hull[0].nbytes for hull in hulls.values())
    if left < 0:
        raise SchemeError(
            f"a budget of {budget / 1e6:.1f} MB is too small: the smallest types need "
            f"{(budget - left) / 1e6:.1f} MB"
        )
    chosen = dict.fromkeys(hulls, 0)
    # In order of falling gain per byte; names break ties, so that results don't depend on order.
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
    """Decrease in cost per byte of the step after ``index``."""
    here, there = hull[index], hull[index + 1]
    return (here.cost - there.cost) / (there.nbytes - here.nbytes)


def _hull(options: Sequence[Option]) -> list[Option]:
    """Lower convex hull of options, from small to large: each step gains less per byte."""
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
