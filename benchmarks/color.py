"""What the colour methods do to colours and detail when a result has drifted away from its source.

``python benchmarks/color.py FOLDER`` takes the central 512 px of each photograph of a folder as the perfect result,
lets it drift in these ways, and corrects it towards an LR image a quarter its size:

- global: a cast, a gain and an offset for each channel;
- local: a cast that changes smoothly over the image, up to about a tenth of the range;
- local, degraded LR: the same, and the LR image has the blur, noise and JPEG of the ``flowmapsr`` preset;
- none: the result is perfect already;
- none, degraded LR: so it is, and correction can only do harm.

Each cell has the mean CIEDE2000 after a low-pass of sigma 8 px (below 1 the eye sees no difference) and the energy of
the finest detail, both against the photograph; the row ``none`` is the result before correction. The time is
the fastest of the columns.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flowmapsr.flowmapsr_core.images.color import METHODS
from flowmapsr.flowmapsr_core.images.degradation import degrade, preset
from flowmapsr.flowmapsr_core.images.metrics import color_difference, high_frequency_energy
from flowmapsr.flowmapsr_core.images.picture_files import READABLE, read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from torch import Tensor

SIDE, FACTOR = 512, 4
GAINS, OFFSETS = (1.06, 1.00, 0.92), (0.02, -0.02, 0.03)
Method = Callable[[Tensor, Tensor], Tensor]
Score = tuple[Tensor, Tensor, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    hr = read_crops(parser.parse_args().folder)
    cases = make_cases(hr, torch.Generator().manual_seed(0))
    print(f"{len(hr)} photographs, {SIDE}x{SIDE}; CIEDE2000 / high frequencies\n")
    print(f"| method | {' | '.join(cases)} | ms an image |\n|{'---|' * (len(cases) + 2)}")
    scores = {}
    for name, method in METHODS.items():
        scores[name] = [score(method, sr, lr, hr) for sr, lr in cases.values()]
        cells = [f"{difference.mean():.2f} / {ratio.mean():.3f}" for difference, ratio, _ in scores[name]]
        fastest = min(seconds for *_, seconds in scores[name])
        print(f"| {name} | {' | '.join(cells)} | {1000 * fastest:.0f} |", flush=True)
    print(f"\n{worst_of_default(cases, scores['lr-residual'], hr)}")


def read_crops(folder: Path) -> Tensor:
    """Central squares of the photographs that are large enough, (N, 3, SIDE, SIDE)."""
    photographs = [read_picture(path).color for path in sorted(folder.rglob("*")) if path.suffix.lower() in READABLE]
    crops = []
    for photograph in photographs:
        top, left = ((length - SIDE) // 2 for length in photograph.shape[-2:])
        if min(top, left) >= 0:
            crops.append(photograph[..., top : top + SIDE, left : left + SIDE])
    if not crops:
        raise SystemExit(f"{folder} has no photograph of at least {SIDE}x{SIDE}")
    return torch.cat(crops)


def make_cases(hr: Tensor, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of a result that has drifted and its LR image."""
    lr = resize(hr, (SIDE // FACTOR, SIDE // FACTOR)).clamp(0, 1)
    gains, offsets = (torch.tensor(x).reshape(3, 1, 1) for x in (GAINS, OFFSETS))
    local = hr + resize(0.2 * torch.rand(len(hr), 3, 5, 5, generator=generator) - 0.1, (SIDE, SIDE))
    dirty = torch.cat([degrade(image, FACTOR, preset("flowmapsr"), generator) for image in hr.split(1)])
    return {
        "global": (hr * gains + offsets, lr),
        "local": (local, lr),
        "local, degraded LR": (local, dirty),
        "none": (hr, lr),
        "none, degraded LR": (hr, dirty),
    }


def score(method: Method, sr: Tensor, lr: Tensor, hr: Tensor) -> Score:
    """Colour difference and ratio of fine detail after correction, both (N,), and the seconds an image took."""
    begin = time.perf_counter()
    fixed = method(sr, lr)
    seconds = (time.perf_counter() - begin) / len(hr)
    fixed = fixed.clamp(0, 1)
    return color_difference(fixed, hr), high_frequency_energy(fixed) / high_frequency_energy(hr), seconds


def worst_of_default(cases: dict[str, tuple[Tensor, Tensor]], scores: list[Score], hr: Tensor) -> str:
    """The largest colour difference with a clean LR image, and the least fine detail kept, of all photographs."""
    differences, kept = [], []
    for (case, (sr, _)), (difference, ratio, _) in zip(cases.items(), scores, strict=True):
        # of what the network gave: where a cast pushed colours out of range, clipping them first would add kinks
        kept.append((ratio * high_frequency_energy(hr) / high_frequency_energy(sr)).min())
        if "degraded" not in case:
            differences.append(difference.max())
    return (
        f"lr-residual on the worst photograph: CIEDE2000 {max(differences):.2f} with a clean LR image; "
        f"{min(kept):.3f} of the high frequencies kept"
    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
