from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from calib.capture import collect, output_distance, outputs
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import SequenceContext, embed, sequence_context
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.folds import FOLDS
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import METHODS, awq, rtn
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VARIANTS, VOCABULARY

SCHEMES = [
    QuantScheme(4, 32),
    QuantScheme(4, 16, symmetric=False),
    QuantScheme(4, None, symmetric=False),
    QuantScheme(8, 32),
]


def codecs(scheme: QuantScheme) -> Codecs:
    return dict.fromkeys(LINEARS, AffineCodec(scheme))


class Case:
    """First block of a variant, with statistics of random text."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        ids = torch.randint(0, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(1))
        self.config: Phi3Config = checkpoint.config
        self.block: Block = checkpoint.block(0)
        self.inputs = embed(checkpoint.embedding(), ids)
        self.context: SequenceContext = sequence_context(self.config, 64)
        self.grams: Mapping[str, Gram] = collect(self.block, self.context, self.inputs)

    def awq(self, scheme: QuantScheme) -> QuantizedBlock:
        return awq.quantize_block(self.block, self.grams, self.config, codecs(scheme))

    def output_errors(self, scheme: QuantScheme) -> dict[str, float]:
        candidates = {
            "rtn": rtn.quantize_block(self.block, codecs(scheme)).dequantized(),
            "awq": self.awq(scheme).dequantized(),
        }
        target = outputs(self.block, self.context, self.inputs)
        return {
            name: output_distance(candidate, self.context, self.inputs, target)
            for name, candidate in candidates.items()
        }


@pytest.fixture
def case(checkpoint_folder: Callable[[str], Path]) -> Callable[[str], Case]:
    return lambda variant: Case(checkpoint_folder(variant))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_linear_ends_worse_than_rtn(
    variant: str, scheme: QuantScheme, case: Callable[[str], Case]
) -> None:
    result = case(variant).awq(scheme)
    assert result.losses.keys() == set(LINEARS)
    for loss in result.losses.values():
        assert loss.chosen <= loss.rtn * 1.002


@pytest.mark.parametrize("variant", ["gqa", "mha"])
def test_the_output_error_of_a_block_is_much_lower_than_rtns(
    variant: str, case: Callable[[str], Case]
) -> None:
    errors = case(variant).output_errors(QuantScheme())
    assert errors["awq"] < 0.8 * errors["rtn"]


def test_eight_bits_are_nearly_exact(case: Callable[[str], Case]) -> None:
    gqa = case("gqa")
    fine, coarse = (gqa.output_errors(QuantScheme(bits, 16))["awq"] for bits in (8, 4))
    assert fine < 0.01 * coarse


def test_the_same_input_gives_the_same_codes(case: Callable[[str], Case]) -> None:
    first, second = (case("gqa").awq(QuantScheme()) for _ in range(2))
    for name in LINEARS:
        one, other = first.linears[name], second.linears[name]
        assert isinstance(one, QuantizedTensor)
        assert isinstance(other, QuantizedTensor)
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.scales, other.scales)


def test_norms_are_fp16_numbers_and_folds_stay_exact(case: Callable[[str], Case]) -> None:
    gqa = case("gqa")
    result = gqa.awq(QuantScheme())
    for key, value in result.norms.items():
        assert torch.equal(value, value.half().float())
        fold = next(fold for fold in FOLDS.values() if fold.producer == key)
        if fold.consumer in result.folds:
            # The scale that was moved is the exact quotient of the norm and the rounded norm.
            restored = value * result.folds[fold.consumer]
            assert torch.allclose(restored, gqa.block[key], rtol=1e-6)


@pytest.mark.parametrize("damage", ["dead norm", "zero columns", "zero rows", "dead inputs"])
def test_dead_channels_give_finite_results(damage: str, case: Callable[[str], Case]) -> None:
    gqa = case("gqa")
    block = {key: value.clone() for key, value in gqa.block.items()}
    grams = dict(gqa.grams)
    match damage:
        case "dead norm":
            block["input_layernorm"][:5] = 0
        case "zero columns":
            block["down_proj"][:, :32] = 0
        case "zero rows":
            block["gate_up_proj"][-40:] = 0
        case "dead inputs":
            grams = {name: Gram.of(torch.zeros(1, len(g.mean_abs))) for name, g in grams.items()}
    result = awq.quantize_block(block, grams, gqa.config, codecs(QuantScheme()))
    assert all(torch.isfinite(value).all() for value in result.dequantized().values())


def test_scales_that_do_not_help_are_not_moved(case: Callable[[str], Case]) -> None:
    gqa = case("gqa")
    weight = torch.ones(64, 64)
    gram = Gram(torch.eye(64), torch.ones(64), 1)
    scales = awq.search_scales(
        weight, gram, FOLDS["qkv_proj"], gqa.config, AffineCodec(QuantScheme())
    )
    assert scales is None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_shapes_and_the_scheme(name: str, case: Callable[[str], Case]) -> None:
    gqa, scheme = case("gqa"), QuantScheme(4, 16, symmetric=False)
    result = METHODS[name].quantize_block(gqa.block, gqa.grams, gqa.config, codecs(scheme))
    for key, value in gqa.block.items():
        assert result.dequantized()[key].shape == value.shape
    for tensor in result.linears.values():
        assert isinstance(tensor, QuantizedTensor)
        assert tensor.scheme == scheme
