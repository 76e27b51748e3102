"""The whole chain: resize, encode, sample, decode, match colours."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..images.batch import batch_of
from ..images.color import check_color, match_color
from ..images.light import paint_light
from ..images.resize import resize
from ..images.wrap import check_wrap, surround, without
from ..method.looks import DEFAULT_LOOK, Look, find_look
from ..model import Model
from .host import Host, TorchHost
from .meter import Meter, Progress
from .plan import Plan, describe, in_memory, make_plan, ticks
from .preview import Preview
from .realism_mask import blend, check_mask, runs_for
from .settings import as_trained, override

log = logging.getLogger("flowmapsr")

MIN_SIDE = 4
MAX_SCALE = 8
MAX_SEED = 2**64 - 1


@torch.no_grad()
def upscale(
    model: Model,
    image: Tensor,
    scale: float = 4.0,
    steps: int | None = None,
    guidance: float | None = None,
    *,
    look: str = DEFAULT_LOOK,
    realism: float | None = None,
    realism_mask: Tensor | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    color: str | None = None,
    color_strength: float = 1.0,
    tile: int | None = None,
    wrap: str = "",
    hdr: bool = False,
    host: Host | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Upscale photographs.

    Args:
        model: from :func:`flowmapsr.flowmapsr_core.load_model`; it is evaluated in its dtype.
        image: (B, 3, H, W) float in [0, 1]; every image of the batch is upscaled.
        scale: factor from 1 to 8, any fraction; the output is ``round(scale * side)``.
        steps: network evaluations, a power of two; default the look's.
        guidance: guidance scale from 1 (none) to 8; default the look's. A model that has seen none in training is
            evaluated at 1.
        look: ``faithful``, ``balanced`` or ``vivid``, as the model has them.
        realism: from 0, the posterior mean (closest to the source), to 1, a sample (most detail); default the look's.
            The posterior mean takes one evaluation, whatever ``steps``.
        realism_mask: where, (1 or B, 1, h, w) in [0, 1] of the image's size or the output's: 1 takes that realism, 0
            the posterior mean, and what lies between blends the two, for one more evaluation.
        seed: of the noise that a model starts from, if it does; every image of a batch gets the same.
        size: exact output (height, width) in place of ``scale``.
        color, color_strength: colour correction, see :func:`flowmapsr.flowmapsr_core.images.color.match_color`; default
            the model's: ``lr-residual``, and ``none`` for an upscaler of the community.
        tile: longest side of a tile in pixels of the picture that is painted (see ``least_factor`` of
            :class:`..model.Model`), 0 for untiled, None to choose from the free memory. With a network of a finite
            receptive field the result is the same for any value.
        wrap: ``x`` if left and right edge meet, as in a panorama, ``y`` if top and bottom do, ``xy`` if both do: there
            the result has no seam. See :mod:`..images.wrap`.
        hdr: values beyond [0, 1] are kept, and every pixel's amount of light, so that at factor 1 nothing changes. See
            :func:`..images.light.paint_light`.
        host: the machine that does the work; default the device of the weights, as torch sees it.
        progress: called as ``progress(done, total, preview)`` after every tile; ``preview()`` gives the picture as it
            stands, (1, 3, h, w) in [0, 1], small. Raise from it to cancel.

    Returns:
        (B, 3, round(scale * H), round(scale * W)) float32 in [0, 1] but for ``hdr``, on the image's device.

    Raises:
        UserError: an argument is out of its range, the image is smaller than 4 px, or the mask does not fit it.
    """
    size = output_size(image, scale, size)
    check_mask(realism_mask, image, size)
    settings = as_trained(model, override(find_look(look, model.looks), steps, guidance, realism))
    check_seed(seed)
    color = color or model.color
    check_color(color, color_strength)
    check_wrap(wrap)
    host = host or TorchHost(model.device)
    painted = painted_size(model, image, size, wrap)
    plan = make_plan(model, painted, host, tile, wrap)
    if log.isEnabledFor(logging.INFO):  # counting operations takes a moment
        log.info("%s", describe(plan, model, settings.steps))

    def paint(lr: Tensor, mask: Tensor | None, meter: Meter, plan: Plan) -> Tensor:
        lr, runs = lr.to(plan.store), runs_for(model.method, settings, mask)
        meter.begin(ticks(plan, model, sum(run.steps for run in runs), codings=2), lr)
        enlarged = resize(lr, painted, model.resampling, wrap)
        enlarged = enlarged.clamp(0, 1) if enlarged is lr else enlarged.clamp_(0, 1)
        x1 = encode(model, enlarged, meter, plan)
        del enlarged
        x0 = sample_latent(model, x1, painted, runs, mask, seed, meter, plan)
        del x1
        sr = decode(model, x0, meter, plan)[..., : painted[0], : painted[1]]
        del x0
        matched = match_color(sr, lr, color, color_strength, wrap).clamp_(0, 1)
        return matched if painted == size else resize(matched, size, wrap=wrap).clamp_(0, 1)

    def work(lr: Tensor, mask: Tensor | None, meter: Meter, plan: Plan) -> Tensor:
        if not hdr:
            return paint(lr, mask, meter, plan)
        return paint_light(lambda squeezed: paint(squeezed, mask, meter, plan), lr, wrap)

    return each(work, image, realism_mask, model, plan, host, progress)


@torch.no_grad()
def upscale_latent(
    model: Model,
    image: Tensor,
    settings: Look,
    *,
    realism_mask: Tensor | None = None,
    seed: int = 0,
    tile: int | None = None,
    overlap: int = 0,
    wrap: str = "",
    host: Host | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """HR latents of images that have been resized to their final size already; the rest is as in :func:`upscale`.

    Args:
        image: (B, 3, H, W) in [0, 1].
        realism_mask: of the image's size, or of the one that it had before.
        overlap: what blended tiles share, in output pixels; 0 to choose.

    Returns:
        (B, C, ceil(H / factor), ceil(W / factor)) float32, scaled, on the image's device; factor is the codec's.

    Raises:
        UserError: also if the edges meet within a cell of the network.
    """
    settings, host = as_trained(model, settings), host or TorchHost(model.device)
    check_seed(seed)
    check_mask(realism_mask, image)
    check_wrap(wrap)
    size = (image.shape[2], image.shape[3])
    _check_cells(model, size, wrap)
    plan = make_plan(model, size, host, tile, wrap)
    if overlap:
        plan = replace(plan, overlap=-(-overlap // model.codec.factor))

    def work(single: Tensor, mask: Tensor | None, meter: Meter, plan: Plan) -> Tensor:
        single, runs = single.to(plan.store), runs_for(model.method, settings, mask)
        meter.begin(ticks(plan, model, sum(run.steps for run in runs), codings=1), single)
        return sample_latent(model, encode(model, single.clamp(0, 1), meter, plan), size, runs, mask, seed, meter, plan)

    return each(work, image, realism_mask, model, plan, host, progress)


def each(
    work: Callable[[Tensor, Tensor | None, Meter, Plan], Tensor],
    images: Tensor,
    masks: Tensor | None,
    model: Model,
    plan: Plan,
    host: Host,
    progress: Progress | None,
) -> Tensor:
    """``work`` of every image of a batch and its mask, one after another, with less memory where it runs out."""
    meter = Meter(progress, len(images), host)

    def results() -> Iterator[Tensor]:
        nonlocal plan
        for index, image in enumerate(images.float().split(1)):
            mask = None if masks is None else masks[index % len(masks)][None]
            result, plan = in_memory(plan, model, host, partial(work, image, mask, meter))
            meter.finish()
            yield result.to(images.device)
            del result

    return batch_of(len(images), results())


def sample_latent(
    model: Model,
    lr: Tensor,
    size: tuple[int, int],
    runs: list[Look],
    mask: Tensor | None,
    seed: int,
    meter: Meter,
    plan: Plan,
) -> Tensor:
    """HR latent (1, C, ceil(H / factor), ceil(W / factor)) of an LR one for an image of ``size`` (H, W).

    It is sampled by each of ``runs``, see :func:`.realism_mask.runs_for`, and these are blended by the mask.
    """
    eps = noise_like(lr, seed) if model.method.noise else None
    u = plan.tiling(model).velocity(model.velocity(runs[0].guidance), meter.on_tile, plan.device)
    x0 = blend([model.method.sample(u, lr, eps, run) for run in runs], mask, size, model.codec, plan.wrap)
    height, width = (-(-side // model.codec.factor) for side in size)
    return x0[..., :height, :width]


def noise_like(latent: Tensor, seed: int) -> Tensor:
    """Gaussian noise for a whole latent, the same on every device, however it is cut into tiles afterwards."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latent.shape, generator=generator).to(latent.device)


def encode(model: Model, image: Tensor, meter: Meter, plan: Plan) -> Tensor:
    """Latent of an image (1, 3, H, W) in [0, 1], its right and bottom edges repeated to fill the plan's cells.

    Whoever looks at the meter sees its preview from now on.
    """
    height, width = (cells * model.codec.factor for cells in plan.cells)
    padded = image
    if image.shape[-2:] != (height, width):  # else it would be copied
        padded = F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), mode="replicate")
    down, along = _beyond(model, plan.wrap)
    around = surround(padded, down * model.codec.factor, along * model.codec.factor, plan.wrap)
    latent = without(model.codec.encode(around, plan.bands(meter.bands())), down, along)
    if meter.progress is not None:
        meter.show(Preview(model.codec, latent, image))
    return latent


def decode(model: Model, latent: Tensor, meter: Meter, plan: Plan) -> Tensor:
    """Image (1, 3, H, W) of a latent, not clamped."""
    down, along = _beyond(model, plan.wrap)
    image = model.codec.decode(surround(latent, down, along, plan.wrap), plan.bands(meter.bands()))
    return without(image, down * model.codec.factor, along * model.codec.factor)


def _beyond(model: Model, wrap: str) -> tuple[int, int]:
    """Cells, down and along, that a codec is to see of the opposite edges."""
    return model.codec.reach * ("y" in wrap), model.codec.reach * ("x" in wrap)


def _check_cells(model: Model, size: tuple[int, int], wrap: str) -> None:
    """Raise :class:`UserError` unless the sides along which edges meet are whole cells of the network."""
    cell = model.codec.factor * model.network.stride
    for name, axis, side in zip(("height", "width"), "yx", size, strict=True):
        if axis in wrap and side % cell:
            raise UserError(
                f"the image's {name} is {side} pixels; to wrap around it has to be a multiple of {cell}, "
                f"as {max(round(side / cell), 1) * cell}"
            )


def check_seed(seed: int) -> None:
    """Raise :class:`UserError` unless a seed is from 0 to 2**64 - 1."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"the seed is {seed}; use a number from 0 to {MAX_SEED}")


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


def painted_size(model: Model, image: Tensor, size: tuple[int, int], wrap: str = "") -> tuple[int, int]:
    """Size (height, width) at which a model paints what is to have ``size``: see :attr:`.model.Model.least_factor`.

    Where edges meet it is whole cells of the network, so that one cell follows another there too.
    """
    cell = model.codec.factor * model.network.stride
    painted = []
    for axis, wanted, side in zip("yx", size, image.shape[-2:], strict=True):
        length = max(round(min(wanted, model.most_factor * side)), round(model.least_factor * side))
        painted.append(-(-length // cell) * cell if axis in wrap else length)
    return painted[0], painted[1]
