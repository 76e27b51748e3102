"""How many pixels the detail of a picture needs: fewer than it has where it is blurred or was enlarged.

The power spectrum of a photograph falls like a power of the frequency (Field, "Relations between the statistics of
natural images and the response properties of cortical cells", 1987). Blur, and the kernels that enlarge pictures, take
away what is above some frequency: there the spectrum leaves that line and falls to a floor, of noise and of what JPEG
adds. Both the line alone and the line with a cut-off are fitted to the spectrum by least squares. It is averaged along
rows and columns, on which enlarging works, over windows (Welch, 1967) with most detail: skies and what is out of focus
say nothing of a picture, and where anything is sharp all of it stays.

Where pixels were repeated ("nearest") nothing is cut off. There neighbouring rows and columns differ at steps alone,
and these are periodic (as in Gallagher, "Detection of linear and cubic interpolation in JPEG compressed images", 2005).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import luma
from .resize import resize

MOST = 8.0  # largest factor that is found
LEAST = 1.5  # smallest one: lenses, and what shrinks pictures, blur as much as less would
MARGIN = 1.3  # kernels that enlarge leave some detail above their cut-off, and to shrink takes some below its own
WINDOW = 128  # side of a window in pixels; half as much in pictures less than two of them wide or high
SHARE, FEWEST = 0.1, 4  # of all windows, those with most detail, and how many at least
FINE = 1 / 16  # periods per pixel above which there is detail
# The cut-off: power falls to a half at 0.72 of the highest frequency that fewer pixels would hold, then with the
# frequency's 7th power: between Keys' and Lanczos' kernels, each after one that has shrunk the picture.
CUT, ORDER = 0.72, 7
SLOPE, SPREAD, MISFIT = 1.9, 0.5, 4.0  # of the line: exponent, its standard deviation; what photographs are off it, dB
GAIN = 4.0  # squared dB by which the line fits better with a cut-off than without, where there is one
LOST = 0.035  # of white, root mean square: more than this is no detail to lose
COARSE = 2.5  # from this factor on half the picture is looked at: its windows see more of it
FACTORS = 2 ** (torch.arange(48, dtype=torch.float64) / 16)
FLOORS = 10 ** -torch.tensor([1.3, 1.6, 2, 2.5, 3, 4], dtype=torch.float64)  # over the line
NOISES = torch.tensor([0, 1e-1, 4e-2, 1.6e-2, 6e-3, 2.5e-3, 1e-3, 3e-4], dtype=torch.float64)  # over the line at 0.1
NEAR, ALIKE = 8, 0.3  # rows on either side; share of the largest difference among them below which two rows are alike
LONGEST = 6.5  # most repetitions that are looked for: JPEG has steps every 8 pixels
HARMONIC = 0.95  # of the strongest period
CLEAR = 0.3  # how much more periodic differences are than by JPEG's blocks, from 0 to 1, where pixels were repeated


@dataclass(frozen=True)
class Surplus:
    """How many pixels more than its detail a picture has.

    Attributes:
        factor: how many times as many along an axis as a sharp picture of that detail, up to 8.
        safe: the factor by which it can be shrunk and loses no detail.
    """

    factor: float = 1.0
    safe: float = 1.0


def surplus(image: Tensor) -> Surplus:
    """Of a picture (1, 3, H, W) in [0, 1]; enlarged by another factor across than down, it has the smaller one."""
    y = luma(image.cpu().double())[0, 0]
    (down, clear_down), (along, clear_along) = _repetition(y), _repetition(y.mT)
    if min(clear_down, clear_along) > CLEAR:
        repeated = min(down, along)
        return Surplus(repeated, repeated)
    factor = min(_cut_off(y), MOST)
    return Surplus(factor, max(factor / MARGIN, 1.0))


def _cut_off(y: Tensor) -> float:
    """The factor that :func:`surplus` finds in the spectrum of a luma (H, W)."""
    side = WINDOW if min(y.shape) >= 2 * WINDOW else WINDOW // 2
    if min(y.shape) < side:
        return 1.0
    powers = _powers(y, side)
    factor, _ = _fit(_level(powers, _best(powers, FINE)))
    if factor < LEAST:
        return 1.0
    best = _best(powers, CUT / 2 / factor)  # again, of windows with most of what would be lost
    factor, gain = _fit(_level(powers, best))
    if factor < LEAST or gain < GAIN or _lost(y, side, best, factor) > LOST:
        return 1.0
    if factor < COARSE:
        return factor
    half = resize(y[None, None], (y.shape[0] // 2, y.shape[1] // 2))[0, 0]
    return max(2 * _cut_off(half), COARSE)


def _powers(y: Tensor, side: int) -> Tensor:
    """Of every window, along both axes, at 1, 2, ... periods per window up to half its side: (windows, 2, side/2-1)."""
    window = torch.hann_window(side, dtype=y.dtype)
    powers = []
    for row in _windows(y, side):  # all at once would take much memory
        waves = (row - row.mean(dim=(1, 2), keepdim=True)) * window[:, None] * window
        power = torch.fft.fft2(waves).abs().square()
        powers.append(torch.stack([power.sum(dim=1), power.sum(dim=2)], dim=1)[..., 1 : side // 2])
    return torch.cat(powers)


def _windows(y: Tensor, side: int) -> Tensor:
    """Half-overlapping windows of (H, W), rows of them first: (rows, columns, side, side); a view."""
    return y.unfold(0, side, side // 2).unfold(1, side, side // 2)


def _best(powers: Tensor, fine: float) -> Tensor:
    """Numbers of the windows with most power above a frequency in periods per pixel."""
    detail = powers[..., int(2 * fine * (powers.shape[-1] + 1)) :].sum(dim=(1, 2))
    return detail.topk(min(max(int(SHARE * len(powers)), FEWEST), len(powers))).indices


def _level(powers: Tensor, best: Tensor) -> Tensor:
    """Mean power of these windows in dB, each in proportion to what it has in all."""
    tiny = torch.finfo(powers.dtype).tiny
    shares = powers[best] / powers[best].sum(dim=-1, keepdim=True).clamp_min(tiny)
    return 10 * shares.clamp_min(1e-12).log10().mean(dim=(0, 1))


def _fit(levels: Tensor) -> tuple[float, float]:
    """The factor whose cut-off suits a spectrum in dB best, and by how much it does so, in squared dB.

    ``level = c - slope 10 log10 f + 10 log10(1 / (1 + (f / cut)^7) + floor + noise f^1.9)``; the slope has a prior.
    What JPEG's blocks of 8 pixels put at multiples of 1/8 is left out. Octaves weigh alike.
    """
    side = 2 * (len(levels) + 1)
    periods = torch.arange(1, side // 2)
    away = periods % (side // 8)
    used = (periods > 1) & ((periods < side // 16) | (torch.minimum(away, side // 8 - away) > 1))
    frequency, levels = periods[used] / side, levels[used]
    weight = (1 / frequency) / (1 / frequency).sum()
    line = -10 * (frequency / 0.1).log10()
    line = line - (weight * line).sum()
    noise = NOISES[:, None] * (frequency / 0.1) ** SLOPE
    whole = torch.ones(1, len(FLOORS), 1, len(frequency), dtype=levels.dtype)
    cut = 1 / (1 + (2 * frequency * FACTORS[:, None, None, None] / CUT) ** ORDER)
    rest = levels - 10 * (torch.cat([whole, cut + FLOORS[:, None, None]]) + noise).log10()
    rest = rest - (weight * rest).sum(dim=-1, keepdim=True)
    prior = (MISFIT / SPREAD) ** 2 / len(levels)
    slope = ((weight * line * rest).sum(dim=-1) + prior * SLOPE) / ((weight * line**2).sum() + prior)
    error = (weight * (rest - slope[..., None] * line).square()).sum(dim=-1) + prior * (slope - SLOPE).square()
    alone, *errors = error.flatten(1).amin(dim=1).tolist()
    return FACTORS[errors.index(min(errors))].item(), alone - min(errors)


def _lost(y: Tensor, side: int, best: Tensor, factor: float) -> float:
    """Root mean square of what these windows lose where a luma (H, W) is made smaller by a factor."""
    height, width = y.shape
    small = resize(y[None, None], (round(height / factor), round(width / factor)))
    loss = y - resize(small, (height, width))[0, 0]
    return _windows(loss, side).square().mean(dim=(2, 3)).flatten()[best].mean().sqrt().item()


def _repetition(y: Tensor) -> tuple[float, float]:
    """How often each row of a luma (H, W) would have been repeated, and how clear it is that it was: 0 to 1."""
    differences = y.diff(dim=0).abs().mean(dim=1)
    if len(differences) < 2 * NEAR or differences.max() == 0:
        return 1.0, 0.0
    largest = F.max_pool1d(differences[None, None], 2 * NEAR + 1, stride=1, padding=NEAR)[0, 0]
    steps = torch.where(largest > 0, differences / largest, 1.0)
    padded = 4 * len(steps)  # for frequencies in between
    waves = torch.fft.rfft(steps, padded).abs() / steps.sum()
    lowest = int(padded / LONGEST)
    strongest = waves[lowest:].max()
    # the lowest of about that strength, as steps every 4 rows are as strong at a half as at a quarter
    frequency = (lowest + (waves[lowest:] > HARMONIC * strongest).int().argmax().item()) / padded
    # steps every 3 rows, and two of three rows, have the same frequency: rows that are alike tell them apart
    alike = (steps < ALIKE).double().mean().item()
    factor = min(1 / frequency, 1 / (1 - frequency), key=lambda repeated: abs(1 - 1 / repeated - alike))
    if alike < (1 - 1 / factor) / 2:  # other kernels have a period too, but no steps
        return 1.0, 0.0
    return factor, (strongest - waves[padded // 8]).item()
