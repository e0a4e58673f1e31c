"""What calibration learns about a linear layer's input: its second moments."""

import math
from dataclasses import dataclass

import torch

from phi3quant.model.precision import product_dtype

# Triangles up to here are inverted column by column.
_SMALL_TRIANGLE = 256
# Columns of a matrix that are factored at once.
_STRIP = 512
# Multiples of the damping that are tried: FP32 sums of products are off by less than the last.
_MORE_DAMPING = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Gram:
    """Statistics of the inputs x of one linear layer over all calibration tokens.

    Channels are divided without touching the matrix, since what is asked of it is often less than
    copying it. That is exact: x/s has the second moments D^-1 G D^-1.

    Attributes:
        captured: FP32 [in, in], the mean over tokens of x x^T.
        mean_abs: FP32 [in], the mean of abs(x): AWQ's activation scale.
        tokens: how many tokens went in.
        shares: FP32 [in], what the captured channels are multiplied by; None: 1. ``mean_abs`` has
            it in it.
    """

    captured: torch.Tensor
    mean_abs: torch.Tensor
    tokens: int
    shares: torch.Tensor | None = None

    @staticmethod
    def of(x: torch.Tensor) -> "Gram":
        """The statistics of inputs FP32 [tokens, in]."""
        return Gram(x.T @ x / len(x), x.abs().mean(dim=0), len(x))

    def divided(self, scales: torch.Tensor) -> "Gram":
        """The statistics after every input channel was divided by ``scales`` [in]."""
        inverse = 1.0 / scales
        shares = inverse if self.shares is None else self.shares * inverse
        return Gram(self.captured, self.mean_abs * inverse, self.tokens, shares)

    def matrix(self, places: torch.Tensor | None = None) -> torch.Tensor:
        """The second moments, a new FP32 [in, in].

        Args:
            places: int64 [in], an order of the channels.
        """
        shares = self.shares
        if places is None:
            found = self.captured.clone()
        else:
            found = self.captured[places[:, None], places]
            shares = None if shares is None else shares[places]
        return found if shares is None else found.mul_(shares[:, None]).mul_(shares)

    def diagonal(self) -> torch.Tensor:
        """Mean squares of the channels, FP32 [in]: what llama.cpp calls the importance matrix."""
        diagonal = self.captured.diagonal()
        return diagonal.clone() if self.shares is None else diagonal * self.shares.square()

    @property
    def degenerate(self) -> bool:
        """Whether the matrix is zero or has overflowed, so that nothing can be learned from it."""
        return not 0 < float(self.diagonal().double().mean()) < math.inf

    def blocks(self, width: int) -> torch.Tensor:
        """The blocks on the diagonal, FP32 [in/width, width, width]."""
        blocks = diagonal_blocks(self.captured, width)
        if self.shares is None:
            return blocks
        shares = self.shares.view(-1, width)
        return blocks * shares[:, :, None] * shares[:, None, :]

    def output_error(self, error: torch.Tensor) -> torch.Tensor:
        """Mean squared output error of each row of a weight error FP32 [rows, in]: FP32 [rows].

        As the function of this name, in the type that this machine multiplies fastest: BF16's
        rounding averages out over the columns.
        """
        error = error if self.shares is None else error * self.shares
        dtype = product_dtype()
        moved = error.to(dtype) @ self.captured.to(dtype)
        return (moved.float() * error).sum(dim=1)


def output_error(error: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean squared output error per token of each row, FP32 [rows].

    For a weight error E [rows, in] the outputs are off by E x; the mean of (E x)^2 over tokens is
    the diagonal of E G E^T. Exact, whatever the number of tokens.
    """
    return ((error @ gram) * error).sum(dim=1)


def diagonal_blocks(gram: torch.Tensor, width: int) -> torch.Tensor:
    """The blocks [in/width, width, width] on the diagonal of a Gram matrix [in, in]."""
    groups = gram.shape[0] // width
    view = gram.view(groups, width, groups, width)
    return view.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Damped:
    """A Gram matrix with something added to its diagonal, factored: G + d I.

    Attributes:
        places: int64 [in], the order of its columns.
        lower: FP32 [in, in], its lower Cholesky factor in the reverse of that order.
    """

    places: torch.Tensor
    lower: torch.Tensor

    @staticmethod
    def of(gram: Gram, places: torch.Tensor, damping: float) -> "Damped":
        """Factor in FP64, since few tokens or dead channels leave matrices close to singular.

        Args:
            gram: of the input; if it is degenerate, the identity takes its place.
            places: int64 [in], the order of the columns.
            damping: what is added to the diagonal, relative to its mean; ten times as much as long
                as rounding leaves the matrix indefinite.
        """
        if gram.degenerate:
            return Damped(places, torch.eye(len(places)))
        for more in _MORE_DAMPING:
            # In place, since of wide layers this is the largest matrix of a run.
            matrix = gram.matrix(places.flip(0)).double()
            matrix.diagonal().add_(more * damping * float(matrix.diagonal().mean()))
            try:
                _factor(matrix)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                continue
            return Damped(places, matrix.float())
        return Damped(places, torch.eye(len(places)))

    def solve(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows X of X (G + d I) = ``rows``, both FP32 [rows, in] in the channels' own order."""
        reverse = self.places.flip(0)
        half = torch.linalg.solve_triangular(self.lower.T, rows[:, reverse], upper=True, left=False)
        found = torch.empty_like(rows)
        found[:, reverse] = torch.linalg.solve_triangular(self.lower, half, upper=False, left=False)
        return found

    def inverse_factor(self) -> torch.Tensor:
        """Upper Cholesky factor U of the inverse: U^T U = (G + d I)^-1, FP32 [in, in].

        Row j of U says how the columns after j best make up for an error in column j (GPTQ's
        formulation: Frantar et al., 2022). With G = R R^T for an upper R, it is R^-1. ``lower`` is
        used up for it.
        """
        _invert(self.lower)
        factor: torch.Tensor = self.lower.flip(0, 1)
        return factor


def _factor(matrix: torch.Tensor) -> None:
    """Replace a positive definite matrix by its lower Cholesky factor in place, by strips."""
    size = len(matrix)
    for start in range(0, size, _STRIP):
        here, below = slice(start, start + _STRIP), slice(start + _STRIP, size)
        corner, rest = matrix[here, here], matrix[below, here]
        corner.copy_(torch.linalg.cholesky(corner))
        matrix[here, below] = 0
        rest.copy_(torch.linalg.solve_triangular(corner.T, rest, upper=True, left=False))
        # What is above the diagonal strips is never read.
        for first in range(below.start, size, _STRIP):
            columns = slice(first, first + _STRIP)
            offset = first - below.start
            matrix[first:, columns].addmm_(
                rest[offset:], rest[offset : offset + _STRIP].T, alpha=-1
            )


def _invert(lower: torch.Tensor) -> None:
    """Invert a lower triangular matrix in place, by halves: a third of a general solve's work.

    With solves in place of products, since those know of the zeros.
    """
    size = len(lower)
    if size <= _SMALL_TRIANGLE:
        eye = torch.eye(size, dtype=lower.dtype)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = size // 2
    first, below, last = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    solved = torch.linalg.solve_triangular(last, below, upper=False)
    below.copy_(torch.linalg.solve_triangular(first, solved, upper=False, left=False)).neg_()
    _invert(first)
    _invert(last)


def remaining_metrics(factor: torch.Tensor, width: int) -> torch.Tensor:
    """What an error in a group costs once all columns after it have made up for it as well as can.

    That is the Schur complement of the later columns in the Gram matrix, which the factor U of its
    inverse holds ready: (U_g^T U_g)^-1 for the group's block U_g.

    Args:
        factor: FP32 [in, in], from Damped.inverse_factor.
        width: columns in a group.

    Returns:
        FP32 [in/width, width, width].
    """
    blocks = diagonal_blocks(factor, width).double()
    # Not linalg.inv: the blocks are triangles, and on several threads MKL refuses small ones.
    inverse = torch.linalg.solve_triangular(
        blocks, torch.eye(width, dtype=torch.float64).expand_as(blocks), upper=True
    )
    metrics: torch.Tensor = inverse @ inverse.transpose(1, 2)
    return metrics.float()
