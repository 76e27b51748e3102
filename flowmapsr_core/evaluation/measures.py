"""Measures that need a picture, what it should be, and no more. How those of libraries are reached: :mod:`.libraries`.

A measure takes a :class:`Sample` and gives a number, or says in a few words why there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images.metrics import color_difference, high_frequency_energy, luma, psnr_y
from ..images.resize import resize
from .cases import Pair

FLAT = 1e-10  # far less than rounding to 8 bits adds, 1e-6: two images without any detail have a ratio of 1
BLOCK = 64  # side of what spectra are taken of, in pixels
# frequencies of grids of 4 and of 2 pixels, down and across, in periods per block
GRID = ((0, 16), (16, 0), (16, 16), (16, -16), (0, 32), (32, 0), (16, 32), (32, 16), (32, 32))
FAINT = (BLOCK * 3 / 8 / 255) ** 2  # power of white noise of a step of 255 under a Hann window in both directions
BESIDE = (-4, -3, 3, 4)  # frequencies that one is compared with; a Hann window leaks into the next one only
NEAR = 4  # pixels from a line to where the picture beside it begins


@dataclass(frozen=True)
class Sample:
    """A picture and what it is judged by.

    Attributes:
        picture: an LR image enlarged, (1, 3, H, W) in [0, 1], in the steps of a picture file.
        pair: that image, and what the picture should be.
        factor: pixels of the picture for one of the LR image, along an axis.
        lines: rows and columns at which tiles begin or end; None where there were no tiles.
        period: of the grid that the tiles lie on, in pixels.
    """

    picture: Tensor
    pair: Pair
    factor: float
    lines: tuple[list[int], list[int]] | None = None
    period: int = 1

    @property
    def reference(self) -> Tensor:
        """The HR image; see :attr:`.cases.Pair.reference`."""
        return self.pair.reference

    def inner(self) -> tuple[Tensor, Tensor]:
        """Picture and HR image without ``factor`` pixels at the border, as the literature measures fidelity."""
        border = int(self.factor)
        return tuple(x[..., border:-border, border:-border] for x in (self.picture, self.reference))  # pyright: ignore[reportReturnType]


Measure = Callable[[Sample], float | str]


def luma_psnr(sample: Sample) -> float:
    """PSNR of the Y channel in dB; infinite for the same image."""
    return psnr_y(*sample.inner()).item()


def rgb_psnr(sample: Sample) -> float:
    """PSNR over all three channels in dB; infinite for the same image."""
    picture, hr = (x.cpu().double() for x in sample.inner())
    return -10 * torch.log10((picture - hr).square().mean()).item()


def high_frequency_ratio(sample: Sample) -> float:
    """Energy of the finest detail over that of the HR image: below 1 is blurred, above 1 has more than there was."""
    energies = [high_frequency_energy(x).item() + FLAT for x in (sample.picture, sample.reference)]
    return energies[0] / energies[1]


def color_error(sample: Sample) -> float:
    """Mean CIEDE2000 after a low-pass of 8 pixels: 1 is about what an eye can tell."""
    return color_difference(sample.picture, sample.reference).item()


def lr_consistency(sample: Sample) -> float:
    """PSNR of the Y channel in dB of the picture, shrunk as ``bicubic`` does it, to the LR image.

    It says whether a picture is one of those that the LR image may have come from, where that was shrunk without noise
    and JPEG; in others, a picture without them has to differ.
    """
    shrunk = resize(sample.picture, (sample.pair.lr.shape[-2], sample.pair.lr.shape[-1])).clamp(0, 1)
    return psnr_y(shrunk, sample.pair.lr).item()


def pixel_grid(sample: Sample) -> float | str:
    """Power at the frequencies of a grid of 2 or 4 pixels over that of those beside them: 1 where there is no grid.

    Networks that fold pixels into channels may leave one, which is strongest where the picture has detail. So spectra
    of the luma are averaged over half-overlapping blocks of 64 pixels under a Hann window (Welch, 1967), and the
    strengths do not cancel. The figure is the mean of the ratios at all frequencies that are multiples of a quarter of
    the sampling frequency along both axes. White noise of a step of 255 is added, as where a picture has next to
    nothing at these frequencies, ratios say nothing.
    """
    if min(sample.picture.shape[-2:]) < BLOCK:
        return f"smaller than {BLOCK} px"
    blocks = luma(sample.picture.cpu().double())[0, 0].unfold(0, BLOCK, BLOCK // 2).unfold(1, BLOCK, BLOCK // 2)
    window = torch.hann_window(BLOCK, dtype=torch.float64)
    power = torch.zeros(BLOCK, BLOCK, dtype=torch.float64)
    for row in blocks:  # all at once would take much memory
        waves = (row - row.mean(dim=(1, 2), keepdim=True)) * window[:, None] * window
        power += torch.fft.fft2(waves).abs().square().mean(dim=0) / len(blocks)
    power += FAINT
    ratios = []
    for v, u in GRID:
        beside = [power[(v + step) % BLOCK, u] for step in BESIDE if v]
        beside += [power[v, (u + step) % BLOCK] for step in BESIDE if u]
        ratios.append(power[v, u] / torch.stack(beside).log().mean().exp())
    return torch.stack(ratios).mean().item()


def seams(sample: Sample) -> float | str:
    """Gradient across the lines where tiles meet over that beside them: 1 where tiles do not show.

    Gradients are means over the lines of the luma's. Beside them is at the same place in the grid that the tiles lie
    on, so that a pixel grid counts on both sides. Pictures have edges of their own, so the ratio is divided by that of
    the LR image, enlarged by ``bicubic``.
    """
    if sample.lines is None or not any(sample.lines):
        return "no tiles"
    enlarged = resize(sample.pair.lr, sample.pair.size)
    ratios = [_across(image, sample.lines, sample.period) for image in (sample.picture, enlarged)]
    shown, expected = ratios
    return "no room beside" if shown is None or expected is None else shown / expected


def _across(image: Tensor, lines: tuple[list[int], list[int]], period: int) -> float | None:
    """Mean gradient of the luma across lines over that beside them; None if nothing is beside them."""
    apart = -(-NEAR // period) * period
    y, at, beside = luma(image.cpu().double())[0, 0], [], []
    for picture, places in zip((y, y.mT), lines, strict=True):
        across = picture.diff(dim=0).abs().mean(dim=1)  # at i - 1: from row i - 1 to row i
        for line in places:
            near = [line + step * apart - 1 for step in (-2, -1, 1, 2)]
            near = [across[index] for index in near if 0 <= index < len(across)]
            if near:
                at.append(across[line - 1])
                beside.append(torch.stack(near).mean())
    if not at:
        return None
    return ((torch.stack(at).mean() + FLAT) / (torch.stack(beside).mean() + FLAT)).item()
