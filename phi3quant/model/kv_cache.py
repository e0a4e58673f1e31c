"""Keys and values of the tokens seen so far, so that a new one costs one token's work."""

import torch

# Room is made for so many tokens more than are there.
_STEP = 256


class LayerCache:
    """Of one block; keys are rotated already."""

    def __init__(self) -> None:
        self._keys = torch.empty(0)
        self._values = torch.empty(0)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens.

        Args:
            keys: FP32 [batch, key-value heads, new positions, head_dim], rotated.
            values: likewise, not rotated.

        Returns:
            Those of all tokens: views of the cache.
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
    """Empty places for so many tokens and some more."""
    batch, heads, _, width = like.shape
    return torch.empty((batch, heads, tokens + _STEP, width), dtype=like.dtype)
