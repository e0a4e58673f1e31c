"""Driver for HQQ, run in its own environment: quantizes and decodes each matrix with HQQ."""

import torch
from hqq.core.quantize import Quantizer

from benchmarks.peers.plain import parse_job, write_plain


def main() -> None:
    """Quantize and write the matrices decoded by HQQ; it needs no calibration."""
    given = parse_job()
    stored = 0

    def decode(_name: str, weight: torch.Tensor) -> torch.Tensor:
        nonlocal stored
        codes, meta = Quantizer.quantize(
            weight.float(),
            nbits=4,
            group_size=given.settings["group_size"],
            # Groups along the rows, as HQQ's fast kernels require.
            axis=1,
            device="cpu",
            compute_dtype=torch.float32,
        )
        # Half precision, as in HQQ's layers.
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
