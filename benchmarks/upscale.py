"""Time and peak memory of upscaling on this machine, each case in a process of its own, in one run.

``pip install spandrel && python benchmarks/upscale.py [--large]``: from 480x320 to 1920x1280, by bicubic, by the
built-in model (2 steps, in float32 and in the default precision) and by Real-ESRGAN's network with random weights
(RRDBNet x4, in tiles so that it fits). ``--large`` adds the built-in model from 2048x2048 to 8192x8192.
"""

import argparse
import multiprocessing
import resource
import time

import torch


def bicubic(height: int, width: int) -> None:
    from flowmapsr.flowmapsr_core.images.resize import resize

    resize(torch.rand(1, 3, height, width), (4 * height, 4 * width))


def flowmapsr(height: int, width: int, dtype: str) -> None:
    from flowmapsr.flowmapsr_core import load_model, upscale
    from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype

    model = load_model(dtype=find_dtype(dtype, TorchHost(torch.device("cpu"))))
    upscale(model, torch.rand(1, 3, height, width), 4.0, 2)


def real_esrgan(height: int, width: int) -> None:
    from spandrel.architectures.ESRGAN import ESRGAN

    model = ESRGAN(num_filters=64, num_blocks=23, scale=4).eval()
    with torch.inference_mode():
        image = torch.rand(1, 3, height, width)
        for rows in image.split(160, dim=2):
            for tile in rows.split(160, dim=3):
                model(tile)


def measure(queue, function, arguments) -> None:
    start = time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - start
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 8192x8192 (minutes)")
    options = parser.parse_args()
    cases = [
        ("bicubic", "1920x1280", bicubic, (320, 480)),
        ("FlowMapSR, 2 steps, float32", "1920x1280", flowmapsr, (320, 480, "float32")),
        ("FlowMapSR, 2 steps, auto", "1920x1280", flowmapsr, (320, 480, "auto")),
        ("Real-ESRGAN's RRDBNet, float32", "1920x1280", real_esrgan, (320, 480)),
    ]
    if options.large:
        cases.append(("FlowMapSR, 2 steps, auto", "8192x8192", flowmapsr, (2048, 2048, "auto")))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; model loading included\n")
    print("| network | output | seconds | peak memory, GiB |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name, size, function, arguments in cases:
        queue = context.Queue()
        process = context.Process(target=measure, args=(queue, function, arguments))
        process.start()
        seconds, memory = queue.get()
        process.join()
        print(f"| {name} | {size} | {seconds:.1f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
