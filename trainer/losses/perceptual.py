"""Time-weighted perceptual loss ``lambda(t) LPIPS(decode(x0_pred), HR)`` (arXiv 2601.16660, section 3)."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...flowmapsr_core.codecs import Codec
from ...flowmapsr_core.errors import UserError, check

# LPIPS backbones: name, and the file of its weights that torchvision downloads
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


@dataclass(frozen=True)
class Loss:
    """What is around the objective.

    Attributes:
        learned_weight: weigh samples by the learned exp(-psi(t, s)).
        perceptual: weight lambda0 of LPIPS, 0 for none.
        backbone: of LPIPS.
        pretrained: False for random LPIPS weights, which need no download and serve for trying things out.
    """

    learned_weight: bool = False
    perceptual: float = 0.0
    backbone: str = "vgg"
    pretrained: bool = True

    def __post_init__(self) -> None:
        check(self.perceptual >= 0, "loss.perceptual must be 0 or more")
        check(self.backbone in BACKBONES, f"loss.backbone: {self.backbone!r} is none of {', '.join(BACKBONES)}")


class Perceptual(nn.Module):
    """LPIPS on a random crop of every sample, weighted by ``lambda(t) = weight (1 - t)``; frozen.

    Args:
        backbone: one of BACKBONES.
        weight: lambda_0, the weight at t = 0.
        crop: largest side of a crop in image pixels; only the crop is decoded.
        pretrained: False for random backbone weights.
    """

    def __init__(self, backbone: str = "vgg", weight: float = 10.0, crop: int = 256, pretrained: bool = True) -> None:
        super().__init__()
        self.weight, self.crop = weight, crop
        self.lpips = _load_lpips(backbone, pretrained).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Perceptual":
        """Stays in evaluation mode: LPIPS has dropout."""
        return super().train(False)

    def forward(self, x0_pred: Tensor, hr: Tensor, t: Tensor, codec: Codec, place: Tensor) -> Tensor:
        """Weighted distances (B,).

        Args:
            x0_pred: HR prediction from time t, a latent (B, C, h, w).
            hr: image (B, 3, h factor, w factor) in [0, 1].
            t: (B,).
            codec: of the latents.
            place: (B, 2) in [0, 1), where the crops are: 0 at the top or left, 1 at the other end.
        """
        size = place.new_tensor(x0_pred.shape[-2:])
        cells = min(self.crop // codec.factor, int(size.min()))
        corners = (place * (size - cells + 1)).long()
        # not clamped to [0, 1]: that would cut the gradient where the prediction is furthest off
        predicted = codec.decode(_crops(x0_pred, corners, cells))
        true = _crops(hr, corners * codec.factor, cells * codec.factor)
        distance = self.lpips(predicted.float(), true.float(), normalize=True)
        return self.weight * (1 - t) * distance.flatten()


def _crops(x: Tensor, corners: Tensor, size: int) -> Tensor:
    """The squares of x (B, C, H, W) with upper left ``corners`` (B, 2), as (B, C, size, size)."""
    places = zip(x, corners.tolist(), strict=True)
    return torch.stack([sample[:, top : top + size, left : left + size] for sample, (top, left) in places])


def _load_lpips(backbone: str, pretrained: bool) -> nn.Module:
    try:
        import lpips
    except ImportError as error:
        raise UserError(f"the perceptual loss needs lpips ({error}); pip install 'flowmapsr[train]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision by deprecated names
            return lpips.LPIPS(net=backbone, pnet_rand=not pretrained, verbose=False)
    except OSError as error:
        file = BACKBONES[backbone]
        raise UserError(
            f"the perceptual loss needs the weights {file}, which could not be downloaded ({error}); put "
            f"https://download.pytorch.org/models/{file} into {torch.hub.get_dir()}/checkpoints"
        ) from error
