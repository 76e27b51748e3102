"""Colour correction: give the upscaled image the low frequencies of its LR source.

Each method takes the upscaled image ``sr`` (B, 3, H, W) and its source ``lr`` (B, 3, h, w), both in [0, 1], and
returns a corrected ``sr``, not clamped. Always over the whole image, never per tile. ``wrap`` says which edges of both
meet, see :mod:`.wrap`.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .light import display_of, light_of
from .resize import resize
from .trust import trusted_shares
from .wrap import surround

BANDS = (8.0, 3.0)  # widths in LR pixels: of what is always added back of a residual, and of what next
LEVELS = 5  # of StableSR's wavelets
PROJECTIONS = 20  # leave less than half an 8-bit step
# Smooth transport: so many samples and so many windows along each axis. Directions of colour space in which a window
# spreads less than the root of RIDGE keep their contrast, so a flat sky cannot amplify its detail.
SAMPLES, WINDOWS, RIDGE = 10_000, 16, 1e-4
BAND = 256  # rows that are in CIELAB at a time

# linear sRGB to XYZ (IEC 61966-2-1), over the white point D65; then CIE's f(XYZ) to (L + 16, a, b)
_TO_XYZ = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ = _TO_XYZ / _TO_XYZ.sum(dim=1, keepdim=True)
_TO_LAB = torch.tensor([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_KNEE = 6 / 29  # below it CIE's cube root is a line


def lr_residual(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Add back what the LR image has and the downscaled result lost, where it is no noise of the LR image.

    ``sr + up(coarse + sum_k w_k band_k)``, where coarse and bands add up to ``lr - down(sr)``, and the shares ``w_k``,
    from 0 to 1 at every place, are those of :func:`.trust.trusted_shares`. Local, paired and free of halos, because it
    acts on a residual. Where LR was only made small it is back-projection, which takes a result's inventions back.
    """
    lost, bands = residual_bands(sr, lr, wrap)
    for share in trusted_shares(lr, bands, wrap).split(1, dim=1):
        lost.addcmul_(share, bands.pop(0))
    return _in_parts(lambda sr, lost: resize(lost, _size(sr), wrap=wrap).add_(sr), 1, 1, sr, lost)


def residual_bands(sr: Tensor, lr: Tensor, wrap: str = "") -> tuple[Tensor, list[Tensor]]:
    """``lr - down(sr)`` in parts of the shape of ``lr``: what is coarser than BANDS[0], and the finer bands."""
    fine = lr - resize(sr, _size(lr), wrap=wrap)
    coarse, *middle = (gaussian_blur(fine, sigma, wrap) for sigma in BANDS)
    bands = [*middle, fine]
    for coarser, band in reversed(list(pairwise([coarse, *bands]))):
        band.sub_(coarser)
    return coarse, bands


def wavelet(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Low band of the LR image, high bands of the result: StableSR's wavelet fix, its a trous levels."""
    return sr + _low_band(resize(lr, _size(sr), wrap=wrap) - sr, wrap)


def adain(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Mean and standard deviation of each channel taken from the LR image (adaptive instance normalisation)."""
    return _moment_map(resize(sr, _size(lr), wrap=wrap), lr)(sr)


def lab(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Mean and standard deviation in CIELAB taken from the LR image: lightness and the opponent colours apart."""
    pair = (resize(sr, _size(lr), wrap=wrap), lr)
    matched = _moment_map(*(_in_parts(rgb_to_lab, 2, BAND, image) for image in pair))
    return _in_parts(lambda rows: lab_to_rgb(matched(rgb_to_lab(rows))), 2, BAND, sr)


def transport(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Optimal transport of the result's colours, as a Gaussian, to the LR image's: one affine map, in closed form."""
    maps = [_monge_map(low, source) for low, source in zip(resize(sr, _size(lr), wrap=wrap), lr, strict=True)]
    return _apply_maps(sr, torch.stack(maps)[..., None, None])


def transport_smooth(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Gaussian transport in overlapping windows, the affine maps interpolated: smooth in colour and in position.

    A window weighs both images alike, so the fit is on pairs. Closed form, and monotone wherever it is evaluated;
    a kernel map needs a coupling of all samples with all, and has nothing to say about colours that none has.
    """
    size = _sample_size(lr)
    windows = _windows(size, wrap)
    maps = []
    low_band = resize(resize(sr, _size(lr), wrap=wrap), size, wrap=wrap)
    for low, source in zip(low_band, resize(lr, size, wrap=wrap), strict=True):
        maps.append(torch.stack([_monge_map(low, source, RIDGE, window) for window in windows], dim=-1))
    return _apply_maps(sr, torch.stack(maps).unflatten(-1, (WINDOWS, WINDOWS)), wrap)


def back_projection(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """Repeat ``sr + up(lr - down(sr))``, so that the result shrinks to the LR image: for one without noise and JPEG."""
    for _ in range(PROJECTIONS):
        sr = sr + resize(lr - resize(sr, _size(lr), wrap=wrap), _size(sr), wrap=wrap)
    return sr


def none(sr: Tensor, lr: Tensor, wrap: str = "") -> Tensor:
    """The result as the network gave it."""
    return sr


METHODS: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "lr-residual": lr_residual,
    "wavelet": wavelet,
    "adain": adain,
    "lab": lab,
    "transport": transport,
    "transport-smooth": transport_smooth,
    "back-projection": back_projection,
    "none": none,
}


BY_CHANNEL = (wavelet, adain, back_projection)  # that do the same to each channel apart


def match_color(sr: Tensor, lr: Tensor, method: str = "lr-residual", strength: float = 1.0, wrap: str = "") -> Tensor:
    """Correct ``sr`` towards ``lr`` by a method of :data:`METHODS`; ``strength`` 0 leaves it, 1 is the full correction.

    Raises what :func:`check_color` does.
    """
    check_color(method, strength)
    if strength == 0 or method == "none":
        return sr
    correct = METHODS[method]
    if correct in BY_CHANNEL:
        corrected = _in_parts(lambda sr, lr: correct(sr, lr, wrap), 1, 1, sr, lr)
    else:
        corrected = correct(sr, lr, wrap)
    return corrected if strength == 1 else corrected.lerp_(sr, 1 - strength)


def check_color(method: str, strength: float) -> None:
    """Raise :class:`UserError` for an unknown method, a strength outside 0 to 1, or transport without POT."""
    if method not in METHODS:
        raise UserError(f"there is no colour method {method!r}; choose one of {', '.join(METHODS)}")
    if not 0 <= strength <= 1:
        raise UserError(f"colour strength is {strength:g}; use a value from 0 (off) to 1 (full)")
    if METHODS[method] in (transport, transport_smooth):
        _pot()


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) to CIELAB with white D65; values outside [0, 1] follow the curves' ends."""
    xyz = _mix(light_of(image), _TO_XYZ)
    root = torch.where(xyz <= _KNEE**3, xyz / (3 * _KNEE**2) + 4 / 29, xyz.clamp_min(_KNEE**3) ** (1 / 3))
    return _mix(root, _TO_LAB) - image.new_tensor([16, 0, 0]).reshape(3, 1, 1)


def lab_to_rgb(image: Tensor) -> Tensor:
    """Inverse of :func:`rgb_to_lab`."""
    root = _mix(image + image.new_tensor([16, 0, 0]).reshape(3, 1, 1), torch.linalg.inv(_TO_LAB))
    xyz = torch.where(root <= _KNEE, 3 * _KNEE**2 * (root - 4 / 29), root**3)
    return display_of(_mix(xyz, torch.linalg.inv(_TO_XYZ)))


def gaussian_blur(image: Tensor, sigma: float, wrap: str = "") -> Tensor:
    """Separable Gaussian blur of (B, C, H, W), edges replicated where they do not meet, kernel cut at 3 sigma."""
    radius = math.ceil(3 * sigma)
    axis = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma).square())
    return _separable(image, kernel / kernel.sum(), 1, wrap)


def _low_band(image: Tensor, wrap: str) -> Tensor:
    kernel = image.new_tensor([0.25, 0.5, 0.25])
    for level in range(LEVELS):
        image = _separable(image, kernel, 2**level, wrap)
    return image


def _separable(image: Tensor, kernel: Tensor, dilation: int, wrap: str) -> Tensor:
    channels, reach = image.shape[1], dilation * (len(kernel) // 2)
    for shape, around in (((1, 1, -1, 1), (reach, 0)), ((1, 1, 1, -1), (0, reach))):
        weight = kernel.reshape(shape).expand(channels, -1, -1, -1)
        image = F.conv2d(surround(image, *around, wrap), weight, groups=channels, dilation=dilation)
    return image


def _in_parts(function: Callable[..., Tensor], dim: int, size: int, image: Tensor, *others: Tensor) -> Tensor:
    """``function`` of the images, part by part along a dimension, in memory for one part beside the result."""
    result = torch.empty_like(image)
    for into, *parts in zip(*(x.split(size, dim) for x in (result, image, *others)), strict=True):
        into.copy_(function(*parts))
    return result


def _moment_map(low: Tensor, source: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives an image the moments of ``source``; its own are those of ``low``, as small: detail is no contrast."""
    (std_low, mean_low), (std, mean) = (torch.std_mean(x, (2, 3), correction=0, keepdim=True) for x in (low, source))
    gain = (std + 1e-4) / (std_low + 1e-4)  # what is flat in both keeps its contrast
    return lambda image: (image - mean_low) * gain + mean


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(image), image)


def _monge_map(low: Tensor, source: Tensor, ridge: float = 1e-6, window: Tensor | None = None) -> Tensor:
    """Affine colour map (12,), three rows of four, from ``low`` to ``source``, both (3, h, w), by POT's closed form.

    ``ridge`` is added to both covariances; ``window`` (h, w) weighs the pixels.
    """
    xs, xt = (image.detach().cpu().double().flatten(1).T.numpy() for image in (low, source))
    weights = None if window is None else window.double().reshape(-1, 1).numpy()
    matrix, offset = _pot().gaussian.empirical_bures_wasserstein_mapping(xs, xt, ridge, weights, weights)[:2]
    return torch.cat([torch.from_numpy(matrix), torch.from_numpy(offset)]).T.flatten()


def _apply_maps(image: Tensor, maps: Tensor, wrap: str = "") -> Tensor:
    """Apply affine colour maps (B, 12, h, w), interpolated to the pixels of ``image`` (B, 3, H, W)."""
    channels = []
    for row in maps.to(image.device, image.dtype).split(4, dim=1):
        row = resize(row, _size(image), "bilinear", wrap)
        channels.append((row[:, :3] * image).sum(dim=1) + row[:, 3])
    return torch.stack(channels, dim=1)


def _windows(size: tuple[int, int], wrap: str) -> Tensor:
    """Gaussian windows (WINDOWS^2, h, w) around the centres of a grid's cells, one cell wide."""
    down, along = (_window(side, axis in wrap) for side, axis in zip(size, "yx", strict=True))
    return torch.einsum("iy,jx->ijyx", down, along).flatten(0, 1)


def _window(side: int, wraps: bool) -> Tensor:
    """Of all windows along an axis, (WINDOWS, side)."""
    away = (torch.arange(side) + 0.5) / side - ((torch.arange(WINDOWS) + 0.5) / WINDOWS)[:, None]
    if wraps:
        away = away - away.round()  # the shorter way round
    return torch.exp(-0.5 * away.mul(WINDOWS).square())


def _sample_size(image: Tensor) -> tuple[int, int]:
    """The image's size, or the one of its shape with SAMPLES pixels."""
    height, width = _size(image)
    shrink = min(1.0, math.sqrt(SAMPLES / (height * width)))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _pot():
    try:
        import ot
    except ImportError as error:
        raise UserError(f"colour by transport needs POT ({error}); pip install POT, or use lr-residual") from error
    return ot


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
