"""Factors of scales and norms, as logarithms: what tuning changes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from converters.parts import StoredBlock
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.block import rounded_norm
from phi3quant.quant.scaled_terms import Term, has_terms, terms_of, with_scales

Logs = Mapping[str, torch.Tensor]
"""Logarithms of factors, FP32: [rows, groups] for a term of a matrix, [hidden] for a norm.

Their names are those of BLOCK_TENSORS, with the number of the term for a matrix."""


@dataclass(frozen=True)
class BlockTerms:
    """A stored block, ready to be multiplied by factors.

    Attributes:
        terms: terms of the matrices that have scales.
        plain: FP32 norms, and matrices without scales.
    """

    terms: Mapping[str, tuple[Term, ...]]
    plain: Mapping[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        scaled = [part for terms in self.terms.values() for part in terms]
        return sum(term.values.nbytes + term.scales.nbytes for term in scaled) + sum(
            tensor.nbytes for tensor in self.plain.values()
        )

    def neutral(self) -> dict[str, torch.Tensor]:
        """Logarithms of factors of one for all scales and norms."""
        logs = {
            _name(key, number): torch.zeros_like(term.scales)
            for key, terms in self.terms.items()
            for number, term in enumerate(terms)
        }
        norms = {key: tensor for key, tensor in self.plain.items() if key not in LINEARS}
        return logs | {key: torch.zeros_like(norm) for key, norm in norms.items()}

    def multiplied(self, logs: Logs, products: torch.dtype) -> Block:
        """The block's tensors with factors; autograd follows the factors.

        Args:
            logs: logarithms of the factors.
            products: type of the matrices; norms are FP32.
        """
        block = {
            key: (tensor * logs[key].exp() if key in logs else tensor.to(products))
            for key, tensor in self.plain.items()
        }
        for key, terms in self.terms.items():
            factors = [logs[_name(key, number)].exp() for number in range(len(terms))]
            weights = _product(terms[0], factors[0])
            for term, factor in zip(terms[1:], factors[1:], strict=True):
                weights = weights + _product(term, factor)
            block[key] = weights.flatten(1).to(products)
        return block


def block_terms(block: StoredBlock, device: torch.device) -> BlockTerms:
    """Terms of a stored block on a device."""
    terms: dict[str, tuple[Term, ...]] = {}
    plain: dict[str, torch.Tensor] = {}
    for key, tensor in block.items():
        if isinstance(tensor, torch.Tensor):
            plain[key] = tensor.to(device).float()
        elif has_terms(tensor):
            terms[key] = tuple(term.to(device) for term in terms_of(tensor))
        else:
            plain[key] = tensor.dequantize().to(device)
    return BlockTerms(terms, plain)


def settled(block: StoredBlock, logs: Logs, strength: float = 1.0) -> StoredBlock:
    """A stored block with scales and norms multiplied, rounded as they are stored.

    Args:
        block: the block as it was.
        logs: logarithms of the factors.
        strength: power of the factors; 0 for the block as it was.
    """
    if strength == 0:
        return block
    result = dict(block)
    for key, tensor in block.items():
        if isinstance(tensor, torch.Tensor):
            if key in logs:
                result[key] = rounded_norm(tensor * (logs[key].to(tensor.device) * strength).exp())
        elif has_terms(tensor):
            scales = [
                term.scales * (logs[_name(key, number)].cpu() * strength).exp()
                for number, term in enumerate(terms_of(tensor))
            ]
            result[key] = with_scales(tensor, scales)
    return result


def _product(term: Term, factor: torch.Tensor) -> torch.Tensor:
    return term.values.float() * (term.scales * factor).unsqueeze(-1)


def _name(key: str, number: int) -> str:
    return f"{key}.{number}"
