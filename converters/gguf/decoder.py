"""Text generation from GGUF files by llama.cpp, where llama-cpp-python is installed."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from converters.gguf.reader import GgufCheckpoint
from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config


def has_llama() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


class LlamaDecoder:
    """Implementation of generation.decoder.Decoder by llama.cpp, with a context of fixed length."""

    def __init__(self, model: GgufCheckpoint, context: int) -> None:
        import llama_cpp  # noqa: PLC0415 - an optional runtime

        self._config = model.config
        self._library: Any = llama_cpp
        threads = torch.get_num_threads()
        try:
            self._model: Any = llama_cpp.Llama(
                str(model.model.files[0]),
                n_ctx=context,
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"llama.cpp can't load {model.path}: {error}") from None

    @property
    def config(self) -> Phi3Config:
        """See Decoder."""
        return self._config

    @property
    def runtime(self) -> str:
        """See Decoder."""
        return f"llama.cpp (llama-cpp-python {self._library.__version__})"

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """See Decoder.

        Raises:
            CheckpointError: the runtime fails.
        """
        try:
            self._model.eval(list(ids))
        except RuntimeError as error:
            raise CheckpointError(f"llama.cpp failed: {error}") from None
        scores = self._library.llama_get_logits_ith(self._model.ctx, -1)
        row = np.ctypeslib.as_array(scores, shape=(self._model.n_vocab(),))
        return torch.from_numpy(row.copy())
