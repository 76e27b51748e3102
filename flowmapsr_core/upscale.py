"""The whole chain: resize, encode, sample, decode, match colours."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import check_color, match_color
from .errors import UserError
from .flow import Velocity, check_steps, posterior_mean, sample
from .looks import Look, find_look
from .memory import default_tile
from .model import FlowMap
from .preview import Preview
from .resize import resize
from .tiling import Box, HaloTiling, TileCallback

MIN_SIDE = 4
MAX_SCALE = 8
MAX_GUIDANCE = 8.0

Progress = Callable[[int, int, Callable[[], Tensor]], None]


@torch.no_grad()
def upscale(
    model: FlowMap,
    image: Tensor,
    scale: float = 4.0,
    steps: int | None = None,
    guidance: float | None = None,
    *,
    look: str = "balanced",
    size: tuple[int, int] | None = None,
    color: str = "lr-residual",
    color_strength: float = 1.0,
    tile: int | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Upscale photographs.

    Args:
        model: from :func:`flowmapsr.flowmapsr_core.load_model`; it is evaluated in its dtype.
        image: (B, 3, H, W) float in [0, 1]; every image of the batch is upscaled.
        scale: factor from 1 to 8, any fraction; the output is ``round(scale * side)``.
        steps: network evaluations, a power of two; default the look's (2 for ``balanced``).
        guidance: guidance scale from 1 (none) to 8; default the look's.
        look: ``faithful``, ``balanced`` or ``vivid``. ``faithful`` without ``steps`` reads the posterior mean.
        size: exact output (height, width) in place of ``scale``.
        color, color_strength: colour correction, see :func:`flowmapsr.flowmapsr_core.color.match_color`.
        tile: longest side of a tile in output pixels, 0 for untiled, None to choose from the free memory. With a
            ``LocalNet`` the result is the same for any value.
        device: where the work is done; default the weights'.
        progress: called as ``progress(done, total, preview)`` after every tile; ``preview()`` gives the picture as it
            stands, (1, 3, h, w) in [0, 1], small. Raise from it to cancel.

    Returns:
        (B, 3, round(scale * H), round(scale * W)) float32 in [0, 1], on the image's device.

    Raises:
        UserError: an argument is out of its range, or the image is smaller than 4 px.
    """
    size = output_size(image, scale, size)
    settings = override(find_look(look), steps, guidance)
    check_color(color, color_strength)
    device = device or next(model.parameters()).device
    if tile is not None and tile < 0:
        raise UserError(f"the tile is {tile}; use a side in pixels, or 0 for no tiles")
    if tile is None:
        tile = default_tile(model, size, device)
    tiling = HaloTiling.for_network(model.network, -(-tile // model.codec.factor))
    results = []
    for index, lr in enumerate(image.float().split(1)):
        lr = lr.to(device)
        x1 = encode(model, resize(lr, size).clamp(0, 1))
        calls = settings.steps * len(tiling.boxes(x1.shape[-2], x1.shape[-1]))
        report = reporter(progress, Preview(model.codec, x1), index * calls, len(image) * calls) if progress else None
        x0 = run(tiling.velocity(model.velocity(settings.guidance), report), x1, settings)
        del x1
        sr = model.codec.decode(x0)[..., : size[0], : size[1]]
        del x0
        results.append(match_color(sr, lr, color, color_strength).clamp_(0, 1).to(image.device))
        del sr
    return torch.cat(results) if len(results) > 1 else results[0]


def encode(model: FlowMap, image: Tensor) -> Tensor:
    """Latent of an image (1, 3, H, W) in [0, 1], its right and bottom edges repeated up to the network's stride."""
    align = model.codec.factor * model.network.stride
    height, width = image.shape[-2:]
    return model.codec.encode(F.pad(image, (0, -width % align, 0, -height % align), mode="replicate"))


def reporter(progress: Progress, preview: Preview, done: int, total: int) -> TileCallback:
    """What to do after a tile: paste it into the preview and count on from ``done``."""

    def on_tile(box: Box, x: Tensor, velocity: Tensor, t: Tensor) -> None:
        nonlocal done
        done += 1
        preview.on_tile(box, x, velocity, t)
        progress(done, total, preview.image)

    return on_tile


def check_scale(scale: float) -> None:
    """Raise :class:`UserError` unless a factor is from 1 to 8."""
    if not 1 <= scale <= MAX_SCALE:
        raise UserError(f"the scale is {scale:g}; use a factor from 1 to {MAX_SCALE}")


def output_size(image: Tensor, scale: float, size: tuple[int, int] | None) -> tuple[int, int]:
    """Exact output (height, width) for an image (B, 3, H, W); :class:`UserError` where there is none."""
    if image.dim() != 4 or image.shape[1] != 3:
        raise UserError(f"the image has shape {tuple(image.shape)}; give (batch, 3, height, width)")
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"the image is {width}x{height} pixels; the smallest that can be upscaled is {MIN_SIDE}x{MIN_SIDE}"
        )
    if size is None:
        check_scale(scale)
        return round(scale * height), round(scale * width)
    # one pixel of grace: an image shrunk by 8 has lost up to half a pixel to rounding
    if not all(side <= wanted <= MAX_SCALE * (side + 1) for side, wanted in zip((height, width), size, strict=True)):
        raise UserError(
            f"{size[1]}x{size[0]} is not 1 to {MAX_SCALE} times the image's {width}x{height}; choose a size in between"
        )
    return size


def override(look: Look, steps: int | None, guidance: float | None) -> Look:
    """A look with single settings replaced; asking for steps means sampling, not the posterior mean."""
    changed = look
    if steps is not None:
        check_steps(steps)
        changed = replace(changed, steps=steps, posterior_mean=False)
    if guidance is not None:
        if not 1 <= guidance <= MAX_GUIDANCE:
            raise UserError(f"guidance is {guidance:g}; use a value from 1 (none) to {MAX_GUIDANCE:g}")
        changed = replace(changed, guidance=guidance)
    return changed


def run(u: Velocity, x1: Tensor, settings: Look) -> Tensor:
    """HR latent from an LR latent, both (B, C, H, W)."""
    if settings.posterior_mean:
        return posterior_mean(u, x1, torch.ones(len(x1), device=x1.device))
    return sample(u, x1, settings.steps)
