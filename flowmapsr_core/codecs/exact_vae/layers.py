"""Layers of diffusers' ``AutoencoderKL``, each over the bands of an activation."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Banded, Banding, Moments, windows

if TYPE_CHECKING:
    from diffusers.models.resnet import ResnetBlock2D

MAX_QUERIES = 1024  # at once, for an attention that holds a weight for every query and key

Activation = Callable[[Tensor], Tensor]


def convolve(
    conv: nn.Conv2d,
    bands: Iterable[Tensor],
    height: int,
    banding: Banding,
    border: tuple[int, int, int, int] | None = None,
) -> Iterator[Tensor]:
    """Bands of the convolution of an activation with ``height`` rows.

    ``border`` counts the zeros on the left, right, top and bottom, by default the convolution's own padding.
    """
    size, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    left, right, top, bottom = border or (padding,) * 4
    outputs = banding.spans((height + top + bottom - size) // stride + 1)
    spans = [(first * stride - top, (stop - 1) * stride - top + size) for first, stop in outputs]
    for (start, stop), window in zip(spans, windows(bands, spans, height), strict=True):
        padded = F.pad(window, (left, right, max(-start, 0), max(stop - height, 0)))
        yield F.conv2d(padded, conv.weight, conv.bias, conv.stride)


def normalize(
    norm: nn.GroupNorm, moments: Moments, bands: Iterable[Tensor], activation: Activation
) -> Iterator[Tensor]:
    """``activation(norm(band))`` of every band of an activation with these moments, in memory of its own."""
    mean, variance = moments.of_groups(norm.num_groups)
    scale = (variance + norm.eps).rsqrt() * norm.weight.unflatten(0, (norm.num_groups, -1))
    shift = norm.bias.unflatten(0, (norm.num_groups, -1)) - mean * scale
    scale, shift = scale.flatten(1)[..., None, None], shift.flatten(1)[..., None, None]
    for band in bands:
        yield activation((band * scale).add_(shift).to(band.dtype))


def in_place(activation: nn.Module) -> Activation:
    """The activation function, overwriting its argument where torch can."""
    return partial(F.silu, inplace=True) if isinstance(activation, nn.SiLU) else activation


def convolution(conv: nn.Conv2d, x: Banded) -> Banded:
    """A convolution alone."""
    return x.then(convolve(conv, x.take(), x.height, x.banding))


def head(norm: nn.GroupNorm, activation: nn.Module, conv: nn.Conv2d, x: Banded) -> Banded:
    """The last three modules of a decoder or encoder."""
    bands = normalize(norm, x.moments, x.take(), in_place(activation))
    return x.then(convolve(conv, bands, x.height, x.banding))


def resnet(block: "ResnetBlock2D", x: Banded) -> Banded:
    """A residual block: two normalised convolutions beside the input, or beside a 1x1 convolution of it."""
    skip, bands = x, x.read()
    if block.conv_shortcut is not None:  # computed as the branch reads x, which then need not be held
        skip = Banded(x.banding)
        bands = fork(x.take(), block.conv_shortcut, skip)
    activation = in_place(block.nonlinearity)
    inner = x.then(convolve(block.conv1, normalize(block.norm1, x.moments, bands, activation), x.height, x.banding))
    bands = normalize(block.norm2, inner.moments, inner.take(), activation)
    branch = convolve(block.conv2, bands, x.height, x.banding)
    pairs = zip(branch, skip.take(), strict=True)
    return x.then(band.add_(beside).div_(block.output_scale_factor) for band, beside in pairs)


def fork(bands: Iterable[Tensor], conv: nn.Module, into: Banded) -> Iterator[Tensor]:
    """The bands unchanged; their 1x1 convolution goes ``into`` another activation as they pass."""
    for band in bands:
        into.put(conv(band))
        yield band


def attention(block: Any, x: Banded) -> Banded:
    """diffusers' ``Attention`` over all H W pixels, for the queries of one band after another, and the input added."""

    def heads(projected: Tensor) -> Tensor:
        """(B, N, heads * d) to (B, heads, N, d)."""
        return projected.unflatten(-1, (block.heads, -1)).transpose(1, 2)

    def tokens(band: Tensor) -> Tensor:
        """Normalised pixels of a band, (B, N, C)."""
        (normalized,) = normalize(block.group_norm, x.moments, [band], nn.Identity())
        return normalized.flatten(2).transpose(1, 2)

    def project(layer: nn.Linear) -> Tensor:
        """Keys or values (B, heads, H W, d) of all bands, written band by band: no more is held than they are."""
        first = x.bands[0]
        pixels = x.height * first.shape[3]
        result = layer.weight.new_empty(len(first), pixels, layer.out_features)
        for band, part in zip(x.read(), result.split(first.shape[2] * first.shape[3], dim=1), strict=True):
            part.copy_(layer(tokens(band)))
        return heads(result)

    keys, values = project(block.to_k), project(block.to_v)

    def attend(band: Tensor) -> Tensor:
        parts = [
            F.scaled_dot_product_attention(heads(block.to_q(part)), keys, values)
            for part in tokens(band).split(MAX_QUERIES, dim=1)
        ]
        mixed = block.to_out[0](torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
        return mixed.transpose(1, 2).reshape(band.shape).add_(band).div_(block.rescale_output_factor)

    return x.then(map(attend, x.take()))


def upsample(conv: nn.Conv2d, x: Banded) -> Banded:
    """Every pixel four times, then a convolution."""
    halves = (half for band in x.take() for half in band.split(-(-x.banding.rows // 2), dim=2))
    doubled = (F.interpolate(half, scale_factor=2.0, mode="nearest") for half in halves)
    return x.then(convolve(conv, doubled, 2 * x.height, x.banding))


def downsample(conv: nn.Conv2d, x: Banded) -> Banded:
    """A convolution with stride 2 of the image with a column of zeros on the right and a row below."""
    return x.then(convolve(conv, x.take(), x.height, x.banding, border=(0, 1, 0, 1)))
