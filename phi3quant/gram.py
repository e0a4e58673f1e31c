"""What calibration learns about a linear layer's input: its second moments."""

import math
from dataclasses import dataclass

import torch

# Triangles up to here are inverted column by column.
_SMALL_TRIANGLE = 256


@dataclass(frozen=True)
class Gram:
    """Statistics of the inputs x of one linear layer over all calibration tokens.

    Attributes:
        matrix: FP32 [in, in], the mean over tokens of x x^T. Its diagonal is what llama.cpp calls
            the importance matrix.
        mean_abs: FP32 [in], the mean of abs(x): AWQ's activation scale.
        tokens: how many tokens went in.
    """

    matrix: torch.Tensor
    mean_abs: torch.Tensor
    tokens: int

    def divided(self, scales: torch.Tensor) -> "Gram":
        """The statistics after every input channel was divided by ``scales`` [in].

        Exact: x/s has the second moments D^-1 G D^-1, so nothing needs capturing again.
        """
        inverse = 1.0 / scales
        matrix = self.matrix * inverse[:, None] * inverse[None, :]
        return Gram(matrix, self.mean_abs * inverse, self.tokens)


def output_error(error: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean squared output error per token of each row, FP32 [rows].

    For a weight error E [rows, in] the outputs are off by E x; the mean of (E x)^2 over tokens is
    the diagonal of E G E^T. Exact, whatever the number of tokens.
    """
    return ((error @ gram) * error).sum(dim=1)


def grouped_output_error(error: torch.Tensor, gram: torch.Tensor, width: int) -> torch.Tensor:
    """Output error of each group of ``width`` weights taken alone, FP32 [rows, in/width].

    Uses the blocks on the diagonal of ``gram``: correlations inside a group count, those between
    groups don't.
    """
    rows, columns = error.shape
    groups = columns // width
    blocks = diagonal_blocks(gram, width)
    parts = error.view(rows, groups, width).transpose(0, 1)
    return ((parts @ blocks) * parts).sum(dim=-1).T


def diagonal_blocks(gram: torch.Tensor, width: int) -> torch.Tensor:
    """The blocks [in/width, width, width] on the diagonal of a Gram matrix [in, in]."""
    groups = gram.shape[0] // width
    view = gram.view(groups, width, groups, width)
    return view.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def inverse_factor(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper Cholesky factor U of the damped inverse of a Gram matrix: U^T U = (G + d I)^-1.

    Row j of U says how the columns after j best make up for an error in column j (GPTQ's
    formulation: Frantar et al., 2022). Computed in FP64, since few tokens or dead channels leave
    Gram matrices close to singular.

    Args:
        gram: FP32 [in, in].
        damping: what is added to the diagonal, relative to its mean.

    Returns:
        FP32 [in, in]; the identity if the matrix is zero or overflowed.
    """
    # In reversed order, so that G = R R^T for an upper R; then U = R^-1. Of wide layers these are
    # the largest matrices of a run, hence no more than two at once. The transpose lies as LAPACK
    # keeps matrices, which spares it copies of its own.
    matrix = gram.flip(0, 1).double()
    mean = float(matrix.diagonal().mean())
    if not 0 < mean < math.inf:
        return torch.eye(len(gram))
    matrix.diagonal().add_(damping * mean)
    lower = torch.linalg.cholesky(matrix, out=torch.empty_like(matrix).T)
    del matrix
    _invert(lower)
    factor: torch.Tensor = lower.flip(0, 1).float()
    return factor


def _invert(lower: torch.Tensor) -> None:
    """Invert a lower triangular matrix in place, by halves: a third of a general solve's work."""
    size = len(lower)
    if size <= _SMALL_TRIANGLE:
        eye = torch.eye(size, dtype=lower.dtype)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = size // 2
    first, last = lower[:half, :half], lower[half:, half:]
    _invert(first)
    _invert(last)
    lower[half:, :half] = -(last @ (lower[half:, :half] @ first))


def remaining_metrics(factor: torch.Tensor, width: int) -> torch.Tensor:
    """What an error in a group costs once all columns after it have made up for it as well as can.

    That is the Schur complement of the later columns in the Gram matrix, which the factor U of its
    inverse holds ready: (U_g^T U_g)^-1 for the group's block U_g.

    Args:
        factor: FP32 [in, in], from inverse_factor.
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
