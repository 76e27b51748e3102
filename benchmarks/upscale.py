"""Time and peak memory of upscaling x4 on this machine, each case in a process of its own, in one run.

``pip install -e ".[upscalers]" && python benchmarks/upscale.py [UPSCALER...] [--large]``: from 480x320 to 1920x1280 by
bicubic, by the shipped models with the looks ``faithful`` and ``balanced``, and by other upscalers, in the precision
that each computes in by default. ``--large`` adds the built-in model from 2048x2048 to 8192x8192. Models are loaded,
and have upscaled a picture of 64x64, before the time begins; it is the median of three pictures.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.files.sources import BUILT_IN, SHIPPED
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.upscaling.community import CommunityUpscaler
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype
from torch import Tensor

FACTOR = 4
REPEATS = 3
CPU = torch.device("cpu")
Enlarge = Callable[[Tensor, tuple[int, int]], Any]


def bicubic() -> Enlarge:
    return resize


def flowmapsr(name: str, look: str) -> Enlarge:
    model = load_model(name, dtype=find_dtype("auto", TorchHost(CPU)))
    return lambda image, size: upscale(model, image, size=size, look=look)


def community(path: Path) -> Enlarge:
    return CommunityUpscaler(path, CPU)


def measure(queue, load: Callable[[], Enlarge], height: int, width: int) -> None:
    enlarge = load()
    with torch.inference_mode():
        enlarge(torch.rand(1, 3, 64, 64), (64 * FACTOR, 64 * FACTOR))
        image = torch.rand(1, 3, height, width)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            enlarge(image, (FACTOR * height, FACTOR * width))
            seconds.append(time.perf_counter() - start)
    queue.put((median(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upscalers", nargs="*", type=Path, help="files of other upscalers")
    parser.add_argument("--large", action="store_true", help="also 8192x8192 (minutes)")
    options = parser.parse_args()
    cases: list[tuple[str, Callable[[], Enlarge], tuple[int, int]]] = [("bicubic", bicubic, (320, 480))]
    for name in {path: name for name, path in SHIPPED.items()}.values():
        for look in ("faithful", "balanced"):
            cases.append((f"{name}, {look}", partial(flowmapsr, name, look), (320, 480)))
    cases += [(path.stem, partial(community, path), (320, 480)) for path in options.upscalers]
    if options.large:
        cases.append((f"{BUILT_IN}, balanced", partial(flowmapsr, BUILT_IN, "balanced"), (2048, 2048)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| by | output | seconds | seconds a megapixel | peak memory, GiB |\n|---|---|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name, load, (height, width) in cases:
        queue = context.Queue()
        process = context.Process(target=measure, args=(queue, load, height, width))
        process.start()
        seconds, memory = queue.get()
        process.join()
        megapixels = height * width * FACTOR**2 / 1e6
        size = f"{FACTOR * width}x{FACTOR * height}"
        print(f"| {name} | {size} | {seconds:.2f} | {seconds / megapixels:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
