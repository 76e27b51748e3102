"""A map of what was invented: where a result shows detail that its source does not support.

What a source says of its enlargement is the posterior mean m: no estimate has a smaller square error, averaged over all
that the source allows. Detail beyond it is a guess, which costs a result r an expected square error of ``(r - m)^2``.
Where r, shrunk back, contradicts the source more than m does, it is a wrong one. Both are held against the contrast of
m, which the source does support. Where m itself is wrong, a map does not know.
"""

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from ..images.color import gaussian_blur
from ..images.resize import resize
from ..method.methods import Method

WINDOW = 2.0  # standard deviation, in pixels of the source, of the Gaussian window in which contrast is measured
VISIBLE = 2 / 255  # below this contrast a picture looks flat
OTHERS = 3  # results of other seeds that a map is made with, where a model starts from noise


class Again(Protocol):
    """:func:`.pipeline.upscale` with its arguments bound, but for those that are given."""

    def __call__(self, *, realism: float = ..., seed: int = ...) -> Tensor: ...


def runs_of_map(method: Method) -> int:
    """How often :func:`map_invention` upscales again."""
    return 1 + (OTHERS if method.noise else 0)


def map_invention(
    again: Again, method: Method, result: Tensor, source: Tensor, seed: int = 0, wrap: str = ""
) -> Tensor:
    """The :func:`invention_map` of a result, (B, 1, H, W).

    Args:
        again: upscales the source again: for the posterior mean, and for :data:`OTHERS` results of other seeds where
            the method has noise.
        method: of the model.
        result: (B, 3, H, W) in [0, 1], also of another upscaler.
        source: what was upscaled, (B, 3, h, w) in [0, 1].
        seed: of the result.
        wrap: which edges of both images meet.
    """
    mean = again(realism=0.0)
    others = (again(seed=seed ^ number) for number in range(1, runs_of_map(method)))
    return invention_map(result, mean, source, others, wrap)


@torch.no_grad()
def invention_map(
    result: Tensor, mean: Tensor, source: Tensor, others: Iterable[Tensor] = (), wrap: str = ""
) -> Tensor:
    """The share of a result's visible local contrast that its source does not support.

    ``a / (a + b)`` with ``a^2 = D^2 + X^2`` and ``b^2 = V + (2 / 255)^2``, which are means over the channels and a
    Gaussian window: D^2 of ``(r - m)^2``, also over other results; X^2 of ``(down(r) - y)^2 - (down(m) - y)^2`` where
    that is positive, as to take away noise is to contradict the source too; V is the variance of m.

    Args:
        result: r, (B, 3, H, W) in [0, 1].
        mean: the posterior mean m, of its shape.
        source: the image y that was upscaled, (B, 3, h, w) in [0, 1].
        others: results of other seeds, of the same shape; one is held at a time.
        wrap: which edges of the images meet, see :mod:`..images.wrap`.

    Returns:
        (B, 1, H, W) in [0, 1]: 0 where the source supports all that is seen, 1/2 where as much contrast is invented as
        is supported, towards 1 where there is nothing else. Its mean is the figure for a whole image.
    """
    (height, width), (small_height, small_width) = mean.shape[-2:], source.shape[-2:]
    sigma = WINDOW * math.sqrt(height * width / (small_height * small_width))
    contradiction = _contradiction(result, source, wrap) - _contradiction(mean, source, wrap)
    excess = gaussian_blur(contradiction, sigma, wrap).clamp_min(0)
    deviations = [_energy(result - mean)]
    for other in others:
        deviations.append(_energy(other - mean))
        del other  # before the next one is made
    unsupported = (gaussian_blur(torch.stack(deviations).mean(dim=0), sigma, wrap) + excess).sqrt()
    variance = (gaussian_blur(_energy(mean), sigma, wrap) - _energy(gaussian_blur(mean, sigma, wrap))).clamp_min(0)
    return unsupported / (unsupported + (variance + VISIBLE**2).sqrt())


def _contradiction(image: Tensor, source: Tensor, wrap: str) -> Tensor:
    """``(down(image) - source)^2`` as (B, 1, H, W), brought back to the image's size."""
    residual = resize(image, (source.shape[-2], source.shape[-1]), wrap=wrap) - source
    return resize(_energy(residual), (image.shape[-2], image.shape[-1]), "bilinear", wrap)


def _energy(image: Tensor) -> Tensor:
    """Mean square over the channels, (B, 1, H, W)."""
    return image.square().mean(dim=1, keepdim=True)
