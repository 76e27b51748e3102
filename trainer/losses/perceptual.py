"""Perceptual losses: distances of the HR prediction's picture to the HR image, weighted by the times of its jump."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...flowmapsr_core.codecs import Codec
from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.evaluation.features import FeatureDistance
from .windows import LARGEST, decoded_windows, windows

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
        grid: weight of what the error has in common over a neighbourhood, see :func:`.error.squared_error`.
        even: from 0 to 1, how far neighbourhoods weigh alike however hard they are, see there too.
        perceptual: weight lambda0 of LPIPS, 0 for none.
        features: weight of the distance on a classifier's features, 0 for none; it needs no download.
        backbone: of LPIPS.
        pretrained: False for random LPIPS weights, which need no download and serve for trying things out.
    """

    learned_weight: bool = False
    grid: float = 0.0
    even: float = 0.0
    perceptual: float = 0.0
    features: float = 0.0
    backbone: str = "vgg"
    pretrained: bool = True

    def __post_init__(self) -> None:
        check(self.grid >= 0, "loss.grid must be 0 or more")
        check(0 <= self.even <= 1, "loss.even must be from 0 to 1")
        check(self.perceptual >= 0, "loss.perceptual must be 0 or more")
        check(self.features >= 0, "loss.features must be 0 or more")
        check(self.backbone in BACKBONES, f"loss.backbone: {self.backbone!r} is none of {', '.join(BACKBONES)}")


class Perceptual(nn.Module):
    """The distances that a recipe gives a weight to, on a random window of every sample; frozen.

    LPIPS weighs ``lambda0 (1 - t)`` (arXiv 2601.16660, section 3), the distance of features ``lambda (1 - s)``. So a
    jump to time 0, which ends at a picture to be looked at, counts in full from t = 1 too, where one-step models are
    trained, and the posterior mean, at s = t = 1, not at all: it is to stay the mean of all pictures that there may be.

    Args:
        settings: weights, and the backbone of LPIPS.
        largest: side of a window in image pixels; only the window is decoded.
    """

    def __init__(self, settings: Loss, largest: int = LARGEST) -> None:
        super().__init__()
        self.settings, self.largest = settings, largest
        self.distances = nn.ModuleDict()
        if settings.perceptual:
            self.distances["perceptual"] = _load_lpips(settings.backbone, settings.pretrained)
        if settings.features:
            self.distances["features"] = FeatureDistance()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Perceptual":
        """Stays in evaluation mode: LPIPS has dropout."""
        return super().train(False)

    def forward(
        self, x0_pred: Tensor, hr: Tensor, t: Tensor, s: Tensor, codec: Codec, place: Tensor
    ) -> dict[str, Tensor]:
        """Weighted distances (B,), by name.

        Args:
            x0_pred: HR prediction ``x_t - t u(x_t, t, s)`` with s = 0 or s = t, a latent (B, C, h, w).
            hr: image (B, 3, h factor, w factor) in [0, 1].
            t, s: (B,).
            codec: of the latents.
            place: (B, 2) in [0, 1), where the windows are: 0 at the top or left, 1 at the other end.
        """
        predicted = decoded_windows(x0_pred, codec, place, self.largest).float()
        true = windows(hr, place, predicted.shape[-1]).float()
        weighted = {}
        if "perceptual" in self.distances:
            distance = self.distances["perceptual"](predicted, true, normalize=True).flatten()
            weighted["perceptual"] = self.settings.perceptual * (1 - t) * distance
        if "features" in self.distances:
            weighted["features"] = self.settings.features * (1 - s) * self.distances["features"](predicted, true)
        return weighted


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
