"""Runs inside HQQ's own environment: quantize each matrix, and decode it by HQQ's own code."""

import torch
from hqq.core.quantize import Quantizer

from benchmarks.peers.plain import parse_job, write_plain


def main() -> None:
    """Quantize and write what HQQ decodes; it needs no calibration."""
    given = parse_job()
    stored = 0

    def decode(_name: str, weight: torch.Tensor) -> torch.Tensor:
        nonlocal stored
        codes, meta = Quantizer.quantize(
            weight.float(),
            nbits=4,
            group_size=given.settings["group_size"],
            # Along the rows, which is what its fast kernels read.
            axis=1,
            device="cpu",
            compute_dtype=torch.float32,
        )
        # Stored in half precision, as its own layers do.
        for key in ("scale", "zero"):
            meta[key] = meta[key].half()
        stored += codes.nbytes + meta["scale"].nbytes + meta["zero"].nbytes
        meta |= {"compute_dtype": torch.float32}
        meta |= {key: meta[key].float() for key in ("scale", "zero")}
        decoded: torch.Tensor = Quantizer.dequantize(codes, meta)
        return decoded

    write_plain(given.model, given.plain, decode, lambda: stored)


if __name__ == "__main__":
    main()
