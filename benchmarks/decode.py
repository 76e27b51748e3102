"""Time, peak memory and error of decoding with a VAE of SDXL's shape, each case in a process of its own, in one run.

``python benchmarks/decode.py [--large]``: a latent of 96x96, and with ``--large`` also one of 255x170 (a picture of
2040x1360), in float32 on the CPU with random weights. diffusers decodes it untiled, which the others are compared with,
and in its own tiles; equal tiles of the same size are blended with Gaussian windows; and ``exact_vae`` decodes it in
bands of two heights. Memory is what a case needs more than the process with the weights had before.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TILE, OVERLAP = 64, 16  # in latent cells; diffusers' tiles of 512 px overlap by a quarter
WIDTHS = (128, 256, 512, 512)


def sdxl_shaped():
    """An AutoencoderKL with torch's initial weights, and norms and biases that are not trivial."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": WIDTHS,
        "layers_per_block": 2,
        "sample_size": 8 * TILE,
    }
    vae = AutoencoderKL(**config)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return vae.requires_grad_(False).eval()


def untiled(vae, latent: Tensor) -> Tensor:
    return vae.decode(latent).sample


def diffusers_tiles(vae, latent: Tensor) -> Tensor:
    vae.enable_tiling()
    return vae.decode(latent).sample


def gaussian_tiles(vae, latent: Tensor) -> Tensor:
    from flowmapsr.flowmapsr_core.tiling import tile_starts

    height, width = latent.shape[2:]
    total, weights = torch.zeros(1, 3, 8 * height, 8 * width), torch.zeros(1, 1, 8 * height, 8 * width)
    profile = torch.exp(-0.5 * (torch.linspace(-1, 1, 8 * TILE) / 0.4) ** 2)
    window = profile[:, None] * profile
    for top in tile_starts(height - OVERLAP, TILE - OVERLAP):
        for left in tile_starts(width - OVERLAP, TILE - OVERLAP):
            tile = vae.decode(latent[..., top : top + TILE, left : left + TILE]).sample
            part = (..., slice(8 * top, 8 * (top + TILE)), slice(8 * left, 8 * (left + TILE)))
            total[part] += tile * window
            weights[part] += window
    return total / weights


def exact_bands(vae, latent: Tensor, rows: int) -> Tensor:
    from flowmapsr.flowmapsr_core.exact_vae import decode

    return decode(vae, latent, rows)


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(queue, reference: Path, height: int, width: int, function, arguments) -> None:
    vae, latent = sdxl_shaped(), torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(0))
    before, start = peak(), time.perf_counter()
    with torch.no_grad():
        result = function(vae, latent, *arguments)
    seconds, memory = time.perf_counter() - start, peak() - before
    if not reference.exists():
        torch.save(result, reference)
    error = (result - torch.load(reference)).abs().max().item()
    queue.put((seconds, memory, error, result.std().item()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 255x170 (many minutes)")
    options = parser.parse_args()
    cases = [
        ("diffusers, untiled", untiled, ()),
        ("exact, bands of 16 rows", exact_bands, (16,)),
        ("exact, bands of 100 rows", exact_bands, (100,)),
        ("diffusers, tiles", diffusers_tiles, ()),
        ("tiles blended by Gaussians", gaussian_tiles, ()),
    ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    context = multiprocessing.get_context("spawn")
    for height, width in [(96, 96), *([(170, 255)] if options.large else [])]:
        # the largest activation is what the last upsampler makes
        largest = WIDTHS[1] * 64 * height * width * 4 / 2**30
        print(f"\nlatent {width}x{height}; two activations of the largest size are {2 * largest:.2f} GiB\n")
        print("| decoding | seconds | peak memory, GiB | largest error | standard deviation |\n|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for name, function, arguments in cases:
                queue = context.Queue()
                inputs = (queue, Path(folder) / "reference.pt", height, width, function, arguments)
                process = context.Process(target=measure, args=inputs)
                process.start()
                seconds, memory, error, deviation = queue.get()
                process.join()
                print(f"| {name} | {seconds:.1f} | {memory:.2f} | {error:.1e} | {deviation:.2f} |", flush=True)


if __name__ == "__main__":
    main()
