"""Degradation of HR images: what cameras, resizers and codecs did to a low-resolution photograph.

Batched and on the images' device. A batch shares whether there is a blur, and how it is resized; kernels, noise and
JPEG are drawn per image. Randomness comes from a CPU generator, so a seed gives the same result on every device.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import UserError
from .jpeg import jpeg
from .resize import RESIZE_MODES, resize

Range = tuple[float, float]


@dataclass(frozen=True)
class Degradation:
    """One stage: blur, resize, noise, JPEG. A probability of 0 leaves the part out.

    Attributes:
        blur: probability of a blur kernel, drawn from ``kernels``.
        blur_sigma: its standard deviation, in pixels of the stage's input.
        kernels: probability of each kernel family (see :func:`blur_kernel`).
        modes: resize modes, drawn uniformly.
        rescale: (up, down, keep) probabilities of a resize on the way to the LR size, by a factor from
            ``rescale_factor``; only presets of several stages use it.
        noise: probability that there is noise at all.
        gaussian: probability that it is Gaussian; else it is Poisson.
        gaussian_sigma: of 255.
        poisson_scale: factor on the shot noise of an 8-bit image.
        gray: probability that the three channels share the noise.
        jpeg: probability of JPEG; ``jpeg_quality`` its range.
        upscale_modes: how training resizes the LR image back to the HR grid.
        grid_blur: probability of a Gaussian blur on the HR grid after that, ``grid_blur_sigma`` its range.
    """

    blur: float = 0.5
    blur_sigma: Range = (0.2, 1.5)
    kernels: tuple[tuple[str, float], ...] = (("gaussian", 1.0),)
    modes: tuple[str, ...] = RESIZE_MODES
    rescale: tuple[float, float, float] = (0.0, 0.0, 1.0)
    rescale_factor: Range = (1.0, 1.0)
    noise: float = 1.0
    gaussian: float = 0.5
    gaussian_sigma: Range = (1.0, 10.0)
    poisson_scale: Range = (0.05, 1.0)
    gray: float = 0.2
    jpeg: float = 1.0
    jpeg_quality: Range = (30.0, 95.0)
    upscale_modes: tuple[str, ...] = RESIZE_MODES
    grid_blur: float = 1.0
    grid_blur_sigma: Range = (0.2, 1.0)


_CLEAN = Degradation(blur=0, modes=("bicubic",), noise=0, jpeg=0, upscale_modes=("bicubic",), grid_blur=0)
# Real-ESRGAN (arXiv 2107.10833), section 3: two stages, then a sinc filter and a last JPEG
_ESRGAN_KERNELS = (
    ("gaussian", 0.405), ("anisotropic", 0.225), ("generalized", 0.135), ("plateau", 0.135), ("sinc", 0.1),
)  # fmt: skip
_ESRGAN_FIRST = Degradation(
    blur=1.0, blur_sigma=(0.2, 3.0), kernels=_ESRGAN_KERNELS, modes=("area", "bilinear", "bicubic"),
    rescale=(0.2, 0.7, 0.1), rescale_factor=(0.15, 1.5), gaussian_sigma=(1, 30), poisson_scale=(0.05, 3), gray=0.4,
)  # fmt: skip
_ESRGAN_SECOND = replace(
    _ESRGAN_FIRST, blur=0.8, blur_sigma=(0.2, 1.5), rescale=(0.3, 0.4, 0.3), rescale_factor=(0.3, 1.2),
    gaussian_sigma=(1, 25), poisson_scale=(0.05, 2.5), jpeg=0, upscale_modes=("bicubic",), grid_blur=0,
)  # fmt: skip
_ESRGAN_LAST = replace(
    _CLEAN, blur=0.8, kernels=(("sinc", 1.0),), modes=_ESRGAN_FIRST.modes, jpeg=1.0, jpeg_quality=(30, 95),
)  # fmt: skip
# Each fault may come without the others: grain without JPEG, as in scans, JPEG without grain
_CAMERA = replace(
    _CLEAN, blur=0.2, blur_sigma=(0.5, 2.0), modes=_ESRGAN_FIRST.modes, noise=0.7, gaussian_sigma=(1, 20),
    poisson_scale=(0.1, 2.0), gray=0.3, jpeg=0.3, jpeg_quality=(50, 100),
)  # fmt: skip

PRESETS: dict[str, tuple[Degradation, ...]] = {
    "flowmapsr": (Degradation(),),
    "bicubic": (_CLEAN,),
    "real-esrgan": (_ESRGAN_FIRST, _ESRGAN_SECOND, _ESRGAN_LAST),
    "camera": (_CAMERA,),
}


def preset(name: str) -> tuple[Degradation, ...]:
    """The stages of a preset by name; :class:`UserError` if there is none."""
    if name not in PRESETS:
        raise UserError(f"there is no degradation preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def lr_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(height, width) of an image shrunk by ``factor``, at least one pixel each."""
    height, width = size
    return max(1, round(height / factor)), max(1, round(width / factor))


def degrade(hr: Tensor, factor: float, stages: tuple[Degradation, ...], generator: Generator) -> Tensor:
    """Make the LR image of an HR image.

    Args:
        hr: (B, 3, H, W) in [0, 1].
        factor: H and W shrink by it; 1 or more.
        stages: a preset's stages; the last resize gives the LR size.
        generator: CPU generator.

    Returns:
        (B, 3, round(H / factor), round(W / factor)) in [0, 1].
    """
    target = lr_size((hr.shape[-2], hr.shape[-1]), factor)
    image = hr
    # with several stages the shrinking to the target size comes before the last one's final filters
    shrink_at = max(len(stages) - 2, 0)
    for index, stage in enumerate(stages):
        if _chance(1, stage.blur, generator).item():
            image = blur(image, _kernels(len(image), stage, generator))
        image = _rescale(image, target, stage, generator)
        if index == shrink_at:
            image = resize(image, target, _choice(stage.modes, generator)).clamp(0, 1)
        image = _noise(image, stage, generator)
        if stage.jpeg:
            quality = _uniform(len(image), stage.jpeg_quality, generator).to(image.device)
            compressed = jpeg(image, quality)
            image = torch.where(_chance(len(image), stage.jpeg, generator).to(image.device), compressed, image)
    return image


def to_hr_grid(lr: Tensor, size: tuple[int, int], stages: tuple[Degradation, ...], generator: Generator) -> Tensor:
    """Resize an LR image (B, 3, h, w) back to the HR grid, as the training pairs of ``stages`` do; in [0, 1]."""
    last = stages[-1]
    image = resize(lr, size, _choice(last.upscale_modes, generator))
    if _chance(1, last.grid_blur, generator).item():
        sigma = _uniform(len(image), last.grid_blur_sigma, generator)
        radius = math.ceil(3 * last.grid_blur_sigma[1])
        image = blur(image, torch.stack([blur_kernel("gaussian", s, radius, generator) for s in sigma.tolist()]))
    return image.clamp(0, 1)


def blur_kernel(family: str, sigma: float, radius: int, generator: Generator) -> Tensor:
    """One normalised blur kernel (2 radius + 1, 2 radius + 1).

    Families, after Real-ESRGAN: ``gaussian`` (isotropic), ``anisotropic`` (second sigma and angle drawn),
    ``generalized`` (exponent 0.5 to 4), ``plateau`` (1 / (1 + r^p), p 1 to 2), ``sinc`` (cut-off pi/3 to pi; sigma
    is unused).
    """
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if family == "sinc":
        cutoff = _uniform(1, (math.pi / 3, math.pi), generator).item()
        distance = torch.hypot(x, y)
        kernel = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
        kernel[radius, radius] = cutoff**2 / (4 * math.pi)
        return kernel / kernel.sum()
    second = sigma * _uniform(1, (0.3, 1.0), generator).item() if family == "anisotropic" else sigma
    angle = _uniform(1, (0, math.pi), generator).item()
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    distance = (along / sigma).square() + (across / second).square()
    if family == "generalized":
        kernel = torch.exp(-0.5 * distance ** _uniform(1, (0.5, 4.0), generator).item())
    elif family == "plateau":
        kernel = 1 / (1 + distance ** _uniform(1, (1.0, 2.0), generator).item())
    else:
        kernel = torch.exp(-0.5 * distance)
    return kernel / kernel.sum()


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Convolve every image of (B, C, H, W) with its own kernel (B, k, k), edges replicated; clamped to [0, 1]."""
    batch, channels, height, width = image.shape
    radius = kernels.shape[-1] // 2
    padded = F.pad(image, (radius,) * 4, mode="replicate").reshape(1, batch * channels, height + 2 * radius, -1)
    weight = kernels.to(image).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weight, groups=batch * channels).reshape(batch, channels, height, width).clamp(0, 1)


def _kernels(batch: int, stage: Degradation, generator: Generator) -> Tensor:
    families = [name for name, _ in stage.kernels]
    weights = torch.tensor([weight for _, weight in stage.kernels])
    picked = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
    sigmas = _uniform(batch, stage.blur_sigma, generator).tolist()
    radius = 10 if "sinc" in families else math.ceil(3 * stage.blur_sigma[1])
    return torch.stack([blur_kernel(families[i], s, radius, generator) for i, s in zip(picked, sigmas, strict=True)])


def _rescale(image: Tensor, target: tuple[int, int], stage: Degradation, generator: Generator) -> Tensor:
    """Extra resize of a multi-stage preset, never below the target size's half."""
    up, down, keep = stage.rescale
    kind = int(torch.multinomial(torch.tensor([up, down, keep]), 1, generator=generator))
    if kind == 2:
        return image
    low, high = stage.rescale_factor
    factor = _uniform(1, (1.0, high) if kind == 0 else (low, 1.0), generator).item()
    height, width = image.shape[-2:]
    size = max(round(height * factor), target[0] // 2, 1), max(round(width * factor), target[1] // 2, 1)
    return resize(image, size, _choice(stage.modes, generator)).clamp(0, 1)


def _noise(image: Tensor, stage: Degradation, generator: Generator) -> Tensor:
    if not stage.noise:
        return image
    batch, device = len(image), image.device
    normal = torch.randn(image.shape, generator=generator).to(device)
    shared = _chance(batch, stage.gray, generator).to(device)
    normal = torch.where(shared, normal[:, :1], normal)
    sigma = _uniform(batch, stage.gaussian_sigma, generator).reshape(-1, 1, 1, 1).to(device) / 255
    scale = _uniform(batch, stage.poisson_scale, generator).reshape(-1, 1, 1, 1).to(device)
    # shot noise of an 8-bit image has variance image / 255; the normal approximation will do above a count or two
    poisson = scale * (image.clamp(0, 1) / 255).sqrt()
    deviation = torch.where(_chance(batch, stage.gaussian, generator).to(device), sigma, poisson)
    present = _chance(batch, stage.noise, generator).to(device)
    return (image + normal * deviation * present).clamp(0, 1)


def _uniform(batch: int, bounds: Range, generator: Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(batch, generator=generator)


def _chance(batch: int, probability: float, generator: Generator) -> Tensor:
    """(B, 1, 1, 1) of bool."""
    return torch.rand(batch, 1, 1, 1, generator=generator) < probability


def _choice(options: tuple[str, ...], generator: Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]
