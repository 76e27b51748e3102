"""Time, peak memory and error of a VAE of SDXL's shape, each case in a process of its own, in one run.

``python benchmarks/decode.py [--large] [--full]``: a latent of 96x96, and with ``--large`` also one of 255x170 (a
picture of 2040x1360), in float32 on the CPU with random weights. diffusers decodes it untiled, which the others are
compared with, and in its own tiles; equal tiles of the same size are blended with Gaussian windows; and ``exact_vae``
decodes it in bands of two heights. Encoding a picture of that size, the same. Memory is what a case needs more than the
process with the weights had before. ``--full`` only decodes a picture of 4096x4096, with an eighth of the channels.
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


def sdxl_shaped(share: int = 1):
    """An AutoencoderKL with torch's initial weights, and norms and biases that are not trivial; 1 / share as wide."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": tuple(width // share for width in WIDTHS),
        "norm_num_groups": 32 // share,
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


def untiled_encode(vae, image: Tensor) -> Tensor:
    return vae.encode(image).latent_dist.mode()


def diffusers_tiles(vae, latent: Tensor) -> Tensor:
    vae.enable_tiling()
    return untiled(vae, latent)


def diffusers_tiles_encode(vae, image: Tensor) -> Tensor:
    vae.enable_tiling()
    return untiled_encode(vae, image)


def gaussian_tiles(vae, latent: Tensor) -> Tensor:
    from flowmapsr.flowmapsr_core.upscaling.tiling import tile_starts

    height, width = latent.shape[2:]
    total, weights = torch.zeros(1, 3, 8 * height, 8 * width), torch.zeros(1, 1, 8 * height, 8 * width)
    profile = torch.exp(-0.5 * (torch.linspace(-1, 1, 8 * TILE) / 0.4) ** 2)
    window = profile[:, None] * profile
    for top in tile_starts(height, TILE, overlap=OVERLAP):
        for left in tile_starts(width, TILE, overlap=OVERLAP):
            tile = vae.decode(latent[..., top : top + TILE, left : left + TILE]).sample
            part = (..., slice(8 * top, 8 * (top + TILE)), slice(8 * left, 8 * (left + TILE)))
            total[part] += tile * window
            weights[part] += window
    return total / weights


def exact_bands(vae, latent: Tensor, rows: int) -> Tensor:
    from flowmapsr.flowmapsr_core.codecs.exact_vae import decode

    return decode(vae, latent, rows)


def exact_bands_encode(vae, image: Tensor, rows: int) -> Tensor:
    from flowmapsr.flowmapsr_core.codecs.exact_vae import encode

    return encode(vae, image, rows)


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(queue, reference: Path, shape: tuple[int, ...], function, arguments) -> None:
    vae, x = sdxl_shaped(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, start = peak(), time.perf_counter()
    with torch.no_grad():
        result = function(vae, x, *arguments)
    seconds, memory = time.perf_counter() - start, peak() - before
    if not reference.exists():
        torch.save(result, reference)
    error = (result - torch.load(reference)).abs().max().item()
    queue.put((seconds, memory, error, result.std().item()))


def table(title: str, shape: tuple[int, ...], cases: list[tuple]) -> None:
    """A line for each case, the first of which is right."""
    print(f"| {title} | seconds | peak memory, GiB | largest error | standard deviation |\n|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name, function, arguments in cases:
            queue = context.Queue()
            inputs = (queue, Path(folder) / "reference.pt", shape, function, arguments)
            process = context.Process(target=measure, args=inputs)
            process.start()
            seconds, memory, error, deviation = queue.get()
            process.join()
            print(f"| {name} | {seconds:.1f} | {memory:.2f} | {error:.1e} | {deviation:.2f} |", flush=True)
    print()


def full_size(share: int = 8) -> None:
    """4096x4096 in bands."""
    vae, latent = sdxl_shaped(share), torch.randn(1, 4, 512, 512)
    before, start = peak(), time.perf_counter()
    image = exact_bands(vae, latent, 64)
    seconds, memory = time.perf_counter() - start, peak() - before
    two = 2 * WIDTHS[1] / share * image[0, 0].numel() * 4 / 2**30
    print(
        f"{image.shape[3]}x{image.shape[2]}: {seconds:.0f} s, {memory:.2f} GiB; two largest activations {two:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 255x170 (many minutes)")
    parser.add_argument("--full", action="store_true", help="4096x4096 with narrow layers instead")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.full:
        full_size()
        return
    decoding = [
        ("diffusers, untiled", untiled, ()),
        ("exact, bands of 16 rows", exact_bands, (16,)),
        ("exact, bands of 100 rows", exact_bands, (100,)),
        ("diffusers, tiles", diffusers_tiles, ()),
        ("tiles blended by Gaussians", gaussian_tiles, ()),
    ]
    encoding = [
        ("diffusers, untiled", untiled_encode, ()),
        ("exact, bands of 16 rows", exact_bands_encode, (16,)),
        ("exact, bands of 100 rows", exact_bands_encode, (100,)),
        ("diffusers, tiles", diffusers_tiles_encode, ()),
    ]
    for height, width in [(96, 96), *([(170, 255)] if options.large else [])]:
        # the largest activation is what the last upsampler makes
        largest = WIDTHS[1] * 64 * height * width * 4 / 2**30
        print(f"\nlatent {width}x{height}; two activations of the largest size are {2 * largest:.2f} GiB\n")
        table("decoding", (1, 4, height, width), decoding)
        table("encoding", (1, 3, 8 * height, 8 * width), encoding)


if __name__ == "__main__":
    main()
