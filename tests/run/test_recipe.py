"""Codecs that a recipe chooses."""

import pytest

from phi3quant.model.architecture import LINEARS
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.locate import bundled_folder

ASYMMETRIC = QuantScheme(4, 32, symmetric=False)


REAL = [
    Recipe(scheme=ASYMMETRIC, formats=("mlx",)),
    Recipe(scheme=ASYMMETRIC, formats=("mlx", "gguf")),
    Recipe(formats=("gguf",), gguf_type="Q4_1"),
]
WHOLE = [
    Recipe(scheme=ASYMMETRIC, formats=("mlx", "compressed-tensors")),
    Recipe(scheme=ASYMMETRIC, formats=("onnx",)),
    Recipe(scheme=QuantScheme(4, 32), formats=("mlx",)),
    Recipe(formats=("gguf",), gguf_type="Q4_0"),
]


@pytest.mark.parametrize("recipe", [*REAL, *WHOLE], ids=lambda recipe: "+".join(recipe.formats))
def test_offsets_are_real_if_all_formats_store_them(recipe: Recipe) -> None:
    codecs = recipe.codecs(open_checkpoint(bundled_folder()).config)(0)
    for name in LINEARS:
        codec = codecs[name]
        assert isinstance(codec, AffineCodec)
        assert codec.real_offsets == (recipe in REAL)
