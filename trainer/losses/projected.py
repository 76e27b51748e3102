"""The projected discriminator (arXiv 2111.01007): small heads on a classifier's features of a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...flowmapsr_core.evaluation.features import Features, load_classifier

WIDTH = 64  # channels that features are mixed to, and of the heads


class ProjectedDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) about [0, 1] to scores (B, scales, H // 16, W // 16), high for real.

    From Projected GANs: features of a frozen classifier at four scales; their channels, and then the scales, mixed by
    random weights that are never trained, so that no feature can be passed over; a small head for each scale, and as
    many scores from each. Not from it: its loss, augmentation and spectral norms, pictures enlarged to 256 pixels, and
    scales of 4 to 32. Here every prediction is paired with the HR image of its own LR image, groups of channels are
    normalised as in PatchDiscriminator, and scales are of 2 to 16 pixels, where the detail is that upscaling adds.

    Args:
        features: of the pictures; None for the classifier's.
    """

    def __init__(self, features: Features | None = None) -> None:
        super().__init__()
        self.features = features or load_classifier()
        last = len(self.features.channels) - 1
        self.channel_mixing = nn.ModuleList(_random(channels, 1) for channels in self.features.channels)
        self.scale_mixing = nn.ModuleList(_random(WIDTH, 3) for _ in range(last))
        self.heads = nn.ModuleList(_head(halvings=last - scale) for scale in range(last + 1))

    def requires_grad_(self, requires_grad: bool = True) -> "ProjectedDiscriminator":
        """Of the heads alone: nothing else is ever trained."""
        self.heads.requires_grad_(requires_grad)
        return self

    def forward(self, picture: Tensor) -> Tensor:
        return torch.cat([head(x) for head, x in zip(self.heads, self.project(picture), strict=True)], dim=1)

    def project(self, picture: Tensor) -> list[Tensor]:
        """Mixed features, finest first, of WIDTH channels; every scale has all coarser ones in it."""
        mixed = [mix(x) for mix, x in zip(self.channel_mixing, self.features(picture), strict=True)]
        for scale in reversed(range(len(mixed) - 1)):
            fine, coarse = mixed[scale : scale + 2]
            enlarged = F.interpolate(coarse, fine.shape[-2:], mode="bilinear")
            mixed[scale] = fine + self.scale_mixing[scale](enlarged)
        return mixed


def _random(inputs: int, kernel: int) -> nn.Conv2d:
    """A convolution to WIDTH channels that keeps the variance, never trained."""
    convolution = nn.Conv2d(inputs, WIDTH, kernel, padding=kernel // 2, bias=False).requires_grad_(False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    return convolution


def _head(halvings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for kernel, stride in (*[(4, 2)] * halvings, (3, 1)):
        layers += [nn.Conv2d(WIDTH, WIDTH, kernel, stride, padding=1), nn.GroupNorm(8, WIDTH), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 1))
