"""mlx-lm reads the folders of this project, and this project reads the folders of mlx-lm."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import open_weights
from phi3quant.generation.generate import generate
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf, export_safetensors
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import VOCABULARY, make_model, own_logits

mx = pytest.importorskip("mlx.core")
