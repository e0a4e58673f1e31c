"""Codes of an output matrix of 4 bits, chosen by its inputs.

A tied matrix is the first tensor of a file. So its codes are chosen before any block is quantized,
by the hidden states of the original model.
"""

from dataclasses import replace

import torch

from calib.activations import Shelf
from calib.capture import Moments, batches, last_states
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.decoder_block import rms_norm
from phi3quant.model.device import CPU
from phi3quant.progress import Progress
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.on_device.affine import AffineDeviceCodec
from phi3quant.quant.gram import Gram
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.checkpoint import Checkpoint

# Rows that are quantized at once.
_ROWS = 1 << 14
# Mean square of the channels that counts the plain errors of a tied matrix, relative to that of the
# output matrix' inputs. Plain errors are those of the embedding.
_PLAIN = 0.3


def head_inputs(
    checkpoint: Checkpoint, ids: torch.Tensor, shelf: Shelf, progress: Progress
) -> Gram:
    """Compute the statistics of the output matrix' inputs in the original model.

    Args:
        checkpoint: the model; its weights are read block by block.
        ids: calibration windows, int64 [windows, length].
        shelf: storage of the hidden states, whose device computes; a run reuses their file.
        progress: display of the blocks.
    """
    config, device = checkpoint.config, shelf.device
    with progress("measuring the output matrix' inputs", config.num_hidden_layers) as step:
        hidden = last_states(
            checkpoint, checkpoint.store.load(EMBEDDING), ids, shelf, "clean", step
        )
    moments, norm = Moments(config.hidden_size, device), checkpoint.final_norm().to(device)
    for batch in batches(hidden):
        moments.add(rms_norm(batch, norm, config.rms_norm_eps))
    return moments.finish(ids.numel())


def head_codes(checkpoint: Checkpoint, gram: Gram, codec: AffineCodec) -> QuantizedTensor:
    """Choose codes of the output matrix, or of a tied embedding, for the least error of outputs.

    Args:
        checkpoint: the model.
        gram: statistics of the matrix' inputs.
        codec: codec of the matrix.

    Raises:
        CheckpointError: a weight is not finite.
    """
    tied = checkpoint.config.tie_word_embeddings
    weight = checkpoint.store.load(EMBEDDING if tied else HEAD)
    if tied and not gram.degenerate:
        moments = gram.captured.clone()
        moments.diagonal().add_(_PLAIN * float(moments.diagonal().mean()))
        gram = replace(gram, captured=moments)
    parts, device = [], gram.captured.device
    computing = codec if device.type == "cpu" else AffineDeviceCodec(codec.scheme)
    for rows in torch.split(weight, _ROWS):
        if not torch.isfinite(rows).all():
            # Raises an error with the tensor, its file and the position of the bad value.
            checkpoint.head()
        coded = computing.quantize_compensated(rows.to(device).float(), gram)
        assert isinstance(coded, QuantizedTensor)
        parts.append(coded.to(CPU))
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return QuantizedTensor(
        codec.scheme,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
    )
