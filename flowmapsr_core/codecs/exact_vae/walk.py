"""The layers of an ``AutoencoderKL`` in the order of its own ``forward``, and the two functions that run them."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from .activations import Banded, Banding
from .layers import attention, convolution, downsample, head, resnet, upsample

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vae import Decoder, Encoder

Progress = Callable[[int, int], None]

PARTS = (nn.Conv2d, nn.GroupNorm, nn.Linear, nn.Dropout, nn.ModuleList, nn.SiLU, nn.Mish, nn.GELU, nn.ReLU)


class Layer(NamedTuple):
    """One step of a walk.

    Attributes:
        apply: the activation before it to the one after it.
        passes: activations that it computes.
        scale: rows after it per row before it.
    """

    apply: Callable[[Banded], Banded]
    passes: int = 1
    scale: float = 1.0


@torch.no_grad()
def decode(
    vae: "AutoencoderKL", latent: Tensor, rows: int, *, offload: bool = False, progress: Progress | None = None
) -> Tensor:
    """What ``vae.decode(latent).sample`` is, exactly, in less memory.

    Args:
        vae: any ``AutoencoderKL`` of plain resnets with or without attention in the middle; the work is done on its
            device and in its dtype, statistics in float32.
        latent: (B, C, h, w), not scaled by the VAE's scaling factor.
        rows: height of a band on every layer's own grid, at least 1; the result is the same for any value.
        offload: keep the bands in host memory, and on the device only those at work.
        progress: called as ``progress(done, total)`` after every band. Raise from it to cancel.

    Returns:
        (B, 3, 8 h, 8 w) about [-1, 1], not clamped, on the latent's device; 8 is 2 to the number of upsamplers.

    Raises:
        UserError: the VAE has parts that this does not know, or an argument is out of its range.
    """
    check(vae, latent, vae.config["latent_channels"])
    before = [] if vae.post_quant_conv is None else [vae.post_quant_conv]
    return run([*layers_of(before), *coder_layers(vae.decoder)], latent, vae, rows, offload, progress)


@torch.no_grad()
def encode(
    vae: "AutoencoderKL", image: Tensor, rows: int, *, offload: bool = False, progress: Progress | None = None
) -> Tensor:
    """What ``vae.encode(image).latent_dist.mode()`` is, the mean of the posterior; all else as in :func:`decode`.

    Args:
        image: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, C, H // 8, W // 8), not scaled by the VAE's scaling factor.
    """
    check(vae, image, vae.config["in_channels"])
    after = [] if vae.quant_conv is None else [vae.quant_conv]
    layers = [*coder_layers(vae.encoder), *layers_of(after)]
    side = math.prod(round(1 / layer.scale) for layer in layers)
    if min(image.shape[2:]) < side:
        raise UserError(f"the image is {image.shape[3]}x{image.shape[2]}; the VAE needs at least {side}x{side}")
    mean, _log_variance = run(layers, image, vae, rows, offload, progress).chunk(2, dim=1)
    return mean


def check(vae: nn.Module, x: Tensor, channels: int) -> None:
    """Raise :class:`UserError` unless ``vae`` is an ``AutoencoderKL`` and x (B, C, H, W) has its channels."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not isinstance(vae, AutoencoderKL):
        raise unknown(vae)
    if x.dim() != 4 or x.shape[1] != channels:
        raise UserError(f"the VAE's input has shape {tuple(x.shape)}; it needs (batch, {channels}, height, width)")


def run(layers: list[Layer], x: Tensor, vae: nn.Module, rows: int, offload: bool, progress: Progress | None) -> Tensor:
    """All layers, one after another, of a whole input (B, C, H, W)."""
    if rows < 1:
        raise UserError(f"bands have {rows} rows; use at least 1")
    done, total, height = 0, 0, x.shape[2]
    for layer in layers:
        height = int(height * layer.scale)
        total += layer.passes * math.ceil(height / rows)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    weight = next(vae.parameters())
    banding = Banding(rows, weight.device, torch.device("cpu") if offload else weight.device, tick)
    activation = Banded(banding)
    for band in x.split(rows, dim=2):
        activation.put(band.to(weight.dtype))
    for layer in layers:
        activation = layer.apply(activation)
    return torch.cat(list(activation.bands), dim=2).to(x.device)


def coder_layers(coder: "Encoder | Decoder") -> list[Layer]:
    """Layers of a decoder or an encoder."""
    from diffusers.models.autoencoders.vae import Encoder

    blocks = (
        [*coder.down_blocks, coder.mid_block] if isinstance(coder, Encoder) else [coder.mid_block, *coder.up_blocks]
    )
    inner = (module for block in blocks for module in block_modules(block))
    last = [coder.conv_norm_out, coder.conv_act, coder.conv_out]
    if not all(map(is_known, last)):
        raise unknown(coder)
    return [*layers_of([coder.conv_in, *inner]), Layer(partial(head, *last))]


def block_modules(block: nn.Module) -> Iterator[nn.Module]:
    """Modules of a block in the order in which its ``forward`` calls them."""
    from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D

    if isinstance(block, UNetMidBlock2D):
        first, *others = block.resnets
        yield first
        for attention_or_none, module in zip(block.attentions, others, strict=True):
            yield from (part for part in (attention_or_none, module) if part is not None)
    elif isinstance(block, DownEncoderBlock2D):
        yield from (*block.resnets, *(block.downsamplers or ()))
    elif isinstance(block, UpDecoderBlock2D):
        yield from (*block.resnets, *(block.upsamplers or ()))
    else:
        raise unknown(block)


def layers_of(modules: Iterable[nn.Module]) -> Iterator[Layer]:
    """A layer for every module; :class:`UserError` for one whose ``forward`` is not what the layer computes."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    for module in modules:
        if not all(map(is_known, (part for part in module.modules() if part is not module))):
            raise unknown(module)
        if isinstance(module, nn.Conv2d) and is_known(module):
            yield Layer(partial(convolution, module))
        elif isinstance(module, ResnetBlock2D) and module.time_emb_proj is None and not (module.up or module.down):
            yield Layer(partial(resnet, module), passes=2)
        elif isinstance(module, Attention) and module.group_norm is not None and module.residual_connection:
            yield Layer(partial(attention, module))
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d) and module.interpolate:
            yield Layer(partial(upsample, module.conv), scale=2)
        elif isinstance(module, Downsample2D) and isinstance(module.conv, nn.Conv2d) and module.padding == 0:
            yield Layer(partial(downsample, module.conv), scale=0.5)
        else:
            raise unknown(module)


def is_known(part: nn.Module) -> bool:
    """Whether a part computes what its class says; a convolution, with zeros around and no gaps."""
    if isinstance(part, nn.Conv2d):
        return part.padding_mode == "zeros" and part.dilation == (1, 1) and part.groups == 1
    return isinstance(part, PARTS)


def unknown(module: nn.Module) -> UserError:
    kind = type(module).__name__
    return UserError(f"the VAE has a {kind} that cannot be computed band by band; decode or encode it with diffusers")
