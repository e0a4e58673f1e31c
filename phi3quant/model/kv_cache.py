"""Key-value cache: a new token costs the work of one token."""

import torch

# Tokens of spare capacity whenever the cache grows.
_STEP = 256


class LayerCache:
    """Keys (already rotated) and values of one block."""

    def __init__(self) -> None:
        self._keys = torch.empty(0)
        self._values = torch.empty(0)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens.

        Args:
            keys: FP32 [batch, key-value heads, new positions, head_dim], rotated.
            values: of the same shape and dtype.

        Returns:
            Keys and values of all tokens, FP32 [batch, key-value heads, positions, head_dim],
            as views of the cache.
        """
        start, end = self._length, self._length + keys.shape[2]
        if not start:
            self._keys, self._values = _room(keys, end), _room(values, end)
        elif end > self._keys.shape[2]:
            self._keys = torch.cat((self._keys, _room(keys, end - start)), dim=2)
            self._values = torch.cat((self._values, _room(values, end - start)), dim=2)
        self._keys[:, :, start:end] = keys
        self._values[:, :, start:end] = values
        self._length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


def _room(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Uninitialized tensor for ``tokens`` tokens and ``_STEP`` more, shaped as ``like``."""
    batch, heads, _, width = like.shape
    return like.new_empty(batch, heads, tokens + _STEP, width)
