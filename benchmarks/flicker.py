"""Flicker that upscaling adds to clips, and how near their frames are to what they should be.

``python benchmarks/flicker.py FOLDER MODEL...`` makes clips of the photographs of a folder, whose motion is known: the
middle, at half its size, panned, zoomed into and turned by the same amount from each frame to the next. Each frame is
made small by bicubic, and then left so, or it gets noise of its own, or the clip is compressed as H.264 at CRF 30. They
are upscaled frame by frame, by bicubic and by each model in all of its looks, and then steadied as clips are;
MODEL is what ``--model`` takes.

In each cell: what changes in the luma from frame to frame once the motion is taken out (root mean square, in 8-bit
steps); that over the luma's detail, as a blurred picture has less to flicker; and the mean PSNR-Y in dB. The row
HR has the frames before they were made small: all that changes in it is due to rounding, and to taking motion out.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import av
import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.evaluation.flicker import affine, flicker, view
from flowmapsr.flowmapsr_core.images.eight_bit import eight_bit
from flowmapsr.flowmapsr_core.images.metrics import psnr_y
from flowmapsr.flowmapsr_core.images.picture_files import READABLE, read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.upscaling.settings import has_dial
from flowmapsr.flowmapsr_core.video.colors import Colors, to_frame, to_picture
from flowmapsr.flowmapsr_core.video.encodings import repeatable
from flowmapsr.flowmapsr_core.video.temporal import steadied
from torch import Tensor
from tqdm import tqdm

FACTOR, SIDE, FRAMES = 4, 192, 12  # SIDE of HR frames, in pixels
SCENE = 600  # pixels a side of a photograph that are used
BORDER = 4 * FACTOR  # pixels of them that are left out: they see less of what is around
MOTIONS = {  # of the n-th frame, from its places to the photograph's
    "pan": lambda n: affine(down=0.84 * n, along=1.48 * n),
    "zoom": lambda n: affine(zoom=0.99**n),
    "turn": lambda n: affine(degrees=0.6 * n),
}
NOISE, CRF = 5 / 255, 30

Enlarge = Callable[[Tensor], Tensor]  # frames (K, 3, h, w) in [0, 1] as (K, 3, H, W)


@dataclass(frozen=True)
class Clip:
    """Frames of a known motion.

    Attributes:
        hr: what they should be, (K, 3, SIDE, SIDE) in [0, 1].
        lr: what is upscaled, a FACTOR smaller.
        motions: (K, 2, 3), from the places of each HR frame to the photograph's.
    """

    hr: Tensor
    lr: Tensor
    motions: Tensor


def clips(photographs: list[Path]) -> Iterator[Clip]:
    """Clips that are not damaged yet."""
    for path in photographs:
        photograph = read_picture(path).color
        top, left = ((side - SCENE) // 2 for side in photograph.shape[-2:])
        scene = resize(photograph[..., top : top + SCENE, left : left + SCENE], (SCENE // 2, SCENE // 2))[0]
        for motion in MOTIONS.values():
            motions = torch.stack([motion(n) for n in range(FRAMES)])
            hr = eight_bit(torch.stack([view(scene, motion, (SIDE, SIDE)) for motion in motions]).float())
            yield Clip(hr, eight_bit(resize(hr, (SIDE // FACTOR, SIDE // FACTOR))), motions)


def noisy(frames: Tensor) -> Tensor:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return eight_bit(frames + NOISE * noise)


def compressed(frames: Tensor) -> Tensor:
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        stream = container.add_stream("libx264", rate=25, options=repeatable("libx264", {"crf": str(CRF)}))
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for frame in frames.split(1):
            container.mux(stream.encode(to_frame(frame, Colors(), stream.pix_fmt)))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return eight_bit(torch.cat([to_picture(frame, Colors(), 0) for frame in container.decode(video=0)]))


DAMAGES = {"clean": lambda lr: lr, "noise": noisy, "H.264": compressed}


def methods(models: list[str]) -> Iterator[tuple[str, Enlarge]]:
    yield "bicubic", lambda lr: resize(lr, (SIDE, SIDE))
    for name in models:
        model = load_model(name, "cpu")
        for look in model.looks if has_dial(model) else ("balanced",):
            title = f"{name}, {look}" if has_dial(model) else Path(name).stem
            yield title, partial(upscale, model, scale=FACTOR, look=look)


def steady(frames: Tensor) -> Tensor:
    numbered = list(enumerate(frames.split(1)))
    return torch.cat([frame for _, frame in steadied(numbered, range(len(frames)))])


def print_row(title: str, made: dict[str, list[tuple[Clip, Tensor]]]) -> None:
    """Means over clips and what was made of them, a cell for each damage."""
    cells = []
    for pairs in made.values():
        found = [flicker(frames, clip.motions, BORDER) for clip, frames in pairs]
        psnr = torch.cat([psnr_y(frames, clip.hr, BORDER) for clip, frames in pairs]).mean()
        change, detail = (sum(figures) / len(found) for figures in zip(*map(astuple, found), strict=True))
        cells.append(f"{change:.2f}, {change / detail:.0%}, {psnr:.2f}")
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs of 600 pixels a side or more")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--every", type=int, default=4, help="take every N-th photograph (%(default)s)")
    parser.add_argument("--damages", nargs="+", choices=DAMAGES, default=list(DAMAGES))
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in READABLE)[:: options.every]
    clean = list(clips(paths))
    given = {damage: [replace(clip, lr=DAMAGES[damage](clip.lr)) for clip in clean] for damage in options.damages}
    print(f"{len(paths)} photographs, {len(MOTIONS)} motions, {FRAMES} frames of {SIDE}x{SIDE}, x{FACTOR}\n")
    print(f"| | {' | '.join(given)} |\n|{'---|' * (len(given) + 1)}")
    print_row("HR", {damage: [(clip, clip.hr) for clip in some] for damage, some in given.items()})
    for title, enlarge in methods(options.models):
        made = {
            damage: [(clip, eight_bit(enlarge(clip.lr))) for clip in tqdm(some, f"{title}, {damage}")]
            for damage, some in given.items()
        }
        print_row(title, made)
        if title != "bicubic":
            still = {
                damage: [(clip, eight_bit(steady(frames))) for clip, frames in some] for damage, some in made.items()
            }
            print_row(f"{title}, steadied", still)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()
