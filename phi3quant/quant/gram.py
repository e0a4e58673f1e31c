"""Second moments of a linear layer's input: the statistics that calibration collects."""

import math
from dataclasses import dataclass
from functools import partial

import torch

from phi3quant.model.device import double
from phi3quant.model.precision import product_dtype

# Largest triangle that is inverted by a single solve.
_SMALL_TRIANGLE = 256
# Columns that are factored at once.
_STRIP = 512
# Multiples of the damping to try. The last one exceeds the rounding error of FP32 sums of products.
_MORE_DAMPING = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Gram:
    """Statistics of the inputs x of one linear layer over all calibration tokens.

    ``divided`` leaves the matrix unchanged and records factors of its channels, since many uses
    of the matrix cost less than a copy of it. The result is exact: with D = diag(s), x/s has the
    second moments D^-1 G D^-1.

    Attributes:
        captured: FP32 [in, in], the mean over tokens of x x^T.
        mean_abs: FP32 [in], the mean of abs(x), which is AWQ's activation scale; ``shares`` are
            applied already.
        tokens: number of tokens.
        shares: FP32 [in], factors of the captured channels; None: all 1.
    """

    captured: torch.Tensor
    mean_abs: torch.Tensor
    tokens: int
    shares: torch.Tensor | None = None

    @staticmethod
    def of(x: torch.Tensor) -> "Gram":
        """Statistics of inputs FP32 [tokens, in]."""
        return Gram(x.T @ x / len(x), x.abs().mean(dim=0), len(x))

    def divided(self, scales: torch.Tensor) -> "Gram":
        """Statistics of the inputs after dividing each channel by ``scales``, FP32 [in]."""
        inverse = 1.0 / scales
        shares = inverse if self.shares is None else self.shares * inverse
        return Gram(self.captured, self.mean_abs * inverse, self.tokens, shares)

    def matrix(self, places: torch.Tensor | None = None) -> torch.Tensor:
        """Second moments as a new tensor, FP32 [in, in].

        Args:
            places: order of the channels, int64 [in]; None: as captured.
        """
        shares = self.shares
        if places is None:
            moments = self.captured.clone()
        else:
            moments = self.captured[places[:, None], places]
            shares = None if shares is None else shares[places]
        return moments if shares is None else moments.mul_(shares[:, None]).mul_(shares)

    def diagonal(self) -> torch.Tensor:
        """Mean squares of the channels, FP32 [in]: the importance matrix of llama.cpp."""
        diagonal = self.captured.diagonal()
        return diagonal.clone() if self.shares is None else diagonal * self.shares.square()

    @property
    def degenerate(self) -> bool:
        """Whether the matrix is zero or has overflowed, and so contains no information."""
        return not 0 < float(double(self.diagonal()).mean()) < math.inf

    def blocks(self, width: int) -> torch.Tensor:
        """Blocks on the diagonal, FP32 [in/width, width, width]."""
        blocks = diagonal_blocks(self.captured, width)
        if self.shares is None:
            return blocks
        shares = self.shares.view(-1, width)
        return blocks * shares[:, :, None] * shares[:, None, :]

    def output_error(self, error: torch.Tensor) -> torch.Tensor:
        """Mean squared output error of each row of a weight error FP32 [rows, in]: FP32 [rows].

        Like the function ``output_error``, but in the dtype that this machine multiplies fastest;
        BF16's rounding averages out over the columns.
        """
        error = error if self.shares is None else error * self.shares
        dtype = product_dtype(error.device)
        moved = error.to(dtype) @ self.captured.to(dtype)
        return (moved.float() * error).sum(dim=1)


def output_error(error: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean squared output error per token of each row, FP32 [rows].

    A weight error E changes the outputs by E x. The mean of (E x)^2 over tokens is exactly the
    diagonal of E G E^T, for any number of tokens.

    Args:
        error: E, FP32 [rows, in].
        gram: G, the second moments, FP32 [in, in].
    """
    return ((error @ gram) * error).sum(dim=1)


def diagonal_blocks(gram: torch.Tensor, width: int) -> torch.Tensor:
    """Blocks [in/width, width, width] on the diagonal of a matrix [in, in]."""
    groups = gram.shape[0] // width
    view = gram.view(groups, width, groups, width)
    return view.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Damped:
    """Cholesky factor of a damped Gram matrix G + d I.

    Attributes:
        places: order of the columns, int64 [in].
        lower: lower Cholesky factor of the matrix in the reverse order, FP32 [in, in].
    """

    places: torch.Tensor
    lower: torch.Tensor

    @staticmethod
    def of(
        gram: Gram, places: torch.Tensor, damping: float, dtype: torch.dtype = torch.float64
    ) -> "Damped":
        """Factor a Gram matrix.

        Args:
            gram: statistics of the input; if they are degenerate, the identity is used instead.
            places: order of the columns, int64 [in].
            damping: d relative to the mean of the diagonal. It is increased tenfold, up to three
                times, while rounding errors leave the matrix indefinite.
            dtype: type to compute in. FP64 for little damping, since few tokens or dead channels
                make the matrix nearly singular.
        """
        identity = partial(torch.eye, len(places), device=places.device)
        if gram.degenerate:
            return Damped(places, identity())
        for more in _MORE_DAMPING:
            # In place, since for wide layers this is the largest matrix of a run.
            matrix = gram.matrix(places.flip(0))
            # MPS can't factor matrices.
            if dtype == torch.float64 or matrix.device.type == "mps":
                matrix = double(matrix)
            matrix.diagonal().add_(more * damping * float(double(matrix.diagonal()).mean()))
            try:
                _factor(matrix)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                continue
            return Damped(places, matrix.float().to(places.device))
        return Damped(places, identity())

    def solve(self, rows: torch.Tensor) -> torch.Tensor:
        """Solve X (G + d I) = ``rows``.

        Args:
            rows: FP32 [rows, in], with the channels in their original order.

        Returns:
            X, FP32 [rows, in], in the same order.
        """
        reverse = self.places.flip(0)
        solution = rows[:, reverse]
        _divide(solution, self.lower.T, upper=True)
        _divide(solution, self.lower, upper=False)
        return solution[:, reverse.argsort()]

    def inverse_factor(self) -> torch.Tensor:
        """Upper Cholesky factor U of the inverse: U^T U = (G + d I)^-1, FP32 [in, in].

        Row j of U gives the changes of the columns after j that best compensate an error in column
        j (GPTQ: Frantar et al., 2022). If G + d I = R R^T with an upper R, then U = R^-1. The
        result overwrites ``lower``.
        """
        _invert(self.lower)
        factor: torch.Tensor = self.lower.flip(0, 1)
        return factor


def _factor(matrix: torch.Tensor) -> None:
    """Replace a positive definite FP64 matrix by its lower Cholesky factor, strip by strip."""
    size = len(matrix)
    for start in range(0, size, _STRIP):
        here, below = slice(start, start + _STRIP), slice(start + _STRIP, size)
        corner, rest = matrix[here, here], matrix[below, here]
        corner.copy_(torch.linalg.cholesky(corner))
        matrix[here, below] = 0
        rest.copy_(torch.linalg.solve_triangular(corner.T, rest, upper=True, left=False))
        # Values above the diagonal strips are never read.
        for first in range(below.start, size, _STRIP):
            columns = slice(first, first + _STRIP)
            offset = first - below.start
            matrix[first:, columns].addmm_(
                rest[offset:], rest[offset : offset + _STRIP].T, alpha=-1
            )


def _divide(rows: torch.Tensor, triangle: torch.Tensor, *, upper: bool) -> None:
    """Replace FP32 ``rows`` [rows, in] by X with X T = rows, for a triangle T [in, in].

    By halves, so that most of the work is products, which are faster than triangular solves.
    """
    size = len(triangle)
    if size <= _SMALL_TRIANGLE:
        rows.copy_(torch.linalg.solve_triangular(triangle, rows, upper=upper, left=False))
        return
    first, last = slice(0, size // 2), slice(size // 2, size)
    one, other = (first, last) if upper else (last, first)
    _divide(rows[:, one], triangle[one, one], upper=upper)
    rows[:, other].addmm_(rows[:, one], triangle[one, other], alpha=-1)
    _divide(rows[:, other], triangle[other, other], upper=upper)


def _invert(lower: torch.Tensor) -> None:
    """Invert a lower triangular FP32 matrix in place, recursively by halves.

    This is a third of the work of a general solve. It uses triangular solves instead of products,
    since they skip the zeros.
    """
    size = len(lower)
    if size <= _SMALL_TRIANGLE:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = size // 2
    first, below, last = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    solved = torch.linalg.solve_triangular(last, below, upper=False)
    below.copy_(torch.linalg.solve_triangular(first, solved, upper=False, left=False)).neg_()
    _invert(first)
    _invert(last)


def remaining_metrics(factor: torch.Tensor, width: int) -> torch.Tensor:
    """Metrics of errors in each group that remain after optimal compensation by later columns.

    The metric of a group is the Schur complement of the later columns in the Gram matrix. It
    follows from the factor U of the inverse: (U_g^T U_g)^-1 for the group's diagonal block U_g.

    Args:
        factor: U, FP32 [in, in], from Damped.inverse_factor.
        width: columns per group.

    Returns:
        FP32 [in/width, width, width].
    """
    blocks = double(diagonal_blocks(factor, width))
    # Not linalg.inv: the blocks are triangular, and MKL fails for small ones on several threads.
    eye = torch.eye(width, dtype=torch.float64, device=blocks.device)
    inverse = torch.linalg.solve_triangular(blocks, eye.expand_as(blocks), upper=True)
    metrics: torch.Tensor = inverse @ inverse.transpose(1, 2)
    return metrics.float().to(factor.device)
