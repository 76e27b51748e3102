"""Upscalers of the community through our chain and through ComfyUI's *Upscale Image (using Model)*, on a CPU.

``pip install -e ".[upscalers]" && COMFYUI_PATH=... python benchmarks/community.py PICTURE UPSCALER...``: seconds of
processor time, most memory, and how far each is from the picture painted in one piece, in 8-bit steps: where ComfyUI's
tiles meet, and everywhere else. Each case is a process of its own; models are loaded, and the chain has measured how
far they see, before the time begins. PICTURE has to be larger than ComfyUI's tile, 512 px, or than ``--tile``, from
which on both are told that memory has run out; and memory has to hold it in one piece.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.files.upscaler_file import load_upscaler
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from torch import Tensor

TILES, OVERLAP = (512, 256, 128), 32  # of ComfyUI's node, the next where memory runs out, in LR pixels
REACH = 96  # LR pixels from where its tiles meet that count as near


def whole(path: Path, tile: int) -> Callable[[Tensor], Tensor]:
    """The picture in one piece."""
    return load_upscaler(path).float().eval()


def chain(path: Path, tile: int) -> Callable[[Tensor], Tensor]:
    model = load_model(path)
    print(f"{path.name}: reach {model.network.receptive_radius} px, {model.network.floats_per_cell} numbers a pixel")
    side = None if tile == TILES[0] else round(tile * model.most_factor)
    return lambda image: upscale(model, image, model.most_factor, tile=side)


class Limited:
    """An upscaler of ComfyUI's that has no memory for larger tiles."""

    def __init__(self, model, tile: int) -> None:
        self.model, self.patcher, self.scale, self.tile = model, model.patcher, model.scale, tile

    def __call__(self, image: Tensor) -> Tensor:
        if max(image.shape[-2:]) > self.tile:
            raise torch.OutOfMemoryError
        return self.model(image)


def comfyui(path: Path, tile: int) -> Callable[[Tensor], Tensor]:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import folder_paths
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader

    folder_paths.get_full_path_or_raise = lambda _, name: name
    (model,) = UpscaleModelLoader.execute(str(path)).args
    limited = Limited(model, tile)
    return lambda image: ImageUpscaleWithModel.execute(limited, image.movedim(1, -1)).args[0].movedim(-1, 1)


WAYS = {"in one piece": whole, "ComfyUI's node": comfyui, "our chain": chain}


def measure(queue, way: str, path: Path, tile: int, picture: Path, made: Path) -> None:
    sys.argv = sys.argv[:1]  # ComfyUI reads it
    enlarge, image = WAYS[way](path, tile), read_picture(picture).color
    with torch.no_grad():
        start = time.process_time()
        result = enlarge(image)
        seconds = time.process_time() - start
    torch.save(result.clamp(0, 1), made)
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def near_seams(height: int, width: int, scale: int, tile: int) -> Tensor:
    """Which pixels of a result lie where ComfyUI's tiles meet, or near, (scale height, scale width) bool."""
    axes = []
    for length in (height, width):
        near = torch.zeros(length, dtype=torch.bool)
        for start in range(tile - OVERLAP, length - OVERLAP, tile - OVERLAP):
            near[max(start - REACH, 0) : start + OVERLAP + REACH] = True
        axes.append(near.repeat_interleave(scale))
    return axes[0][:, None] | axes[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("upscalers", nargs="+", type=Path, help="files that spandrel loads")
    parser.add_argument("--tile", type=int, choices=TILES, default=TILES[0], help="largest that memory is to hold")
    options = parser.parse_args()
    height, width = read_picture(options.picture).color.shape[-2:]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {width}x{height}\n")
    rows, context = [], multiprocessing.get_context("spawn")
    for path in options.upscalers:
        with tempfile.TemporaryDirectory() as folder:
            expected = None
            for way in WAYS:
                made, queue = Path(folder, "made.pt"), context.Queue()
                process = context.Process(target=measure, args=(queue, way, path, options.tile, options.picture, made))
                process.start()
                seconds, memory = queue.get()
                process.join()
                result = torch.load(made)
                expected = result if expected is None else expected
                away = (result - expected).abs().amax(dim=(0, 1)) * 255
                near = near_seams(height, width, result.shape[-2] // height, options.tile)
                steps = " | ".join(f"{away[part].max():.2f}" for part in (near, ~near))
                rows.append(f"| {path.stem}, {way} | {seconds:.0f} | {memory:.1f} | {steps} |")
                print(rows[-1], flush=True)
    print("\n| by | seconds | GiB | near | elsewhere |\n|---|---:|---:|---:|---:|", *rows, sep="\n")


if __name__ == "__main__":
    main()
