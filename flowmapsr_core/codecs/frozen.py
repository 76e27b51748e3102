"""What codecs with weights have in common."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bands import Bands


class FrozenVAE(nn.Module, ABC):
    """A VAE of diffusers whose weights are used and never trained, and the scale of its latents.

    A subclass gives ``config`` (with ``scaling_factor``, ``shift_factor`` and ``latent_channels``), ``factor``, the two
    functions between images in [-1, 1] and latents as the VAE has them, and what memory they take.

    Attributes:
        vae: diffusers' module.
    """

    config: Any
    factor: int
    # cells; the convolutions of SDXL's decoder see 18 around one, while its norms and attention see all of them
    reach = 20

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenVAE":
        """Stays in evaluation mode."""
        return super().train(False)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config.latent_channels

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, and of what is computed with them."""
        return next(self.vae.parameters()).dtype

    @torch.no_grad()
    def encode(self, image: Tensor, bands: Bands | None = None) -> Tensor:
        """Scaled latent of an image.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of ``factor``.
            bands: how the image is cut, for less memory; None for all of it at once. The result is the same.

        Returns:
            (B, channels, H / factor, W / factor), of the image's dtype, without gradient.
        """
        latent = self._encode((image * 2 - 1).to(self.dtype), bands).to(image.dtype)
        return (latent - self.config.shift_factor) * self.config.scaling_factor

    def decode(self, latent: Tensor, bands: Bands | None = None) -> Tensor:
        """The other way round; the image is not clamped, and in bands there is no gradient."""
        unscaled = latent / self.config.scaling_factor + self.config.shift_factor
        return self._decode(unscaled.to(self.dtype), bands).to(latent.dtype) * 0.5 + 0.5

    def weights(self, mask: Tensor) -> Tensor:
        """A mask (B, 1, H, W) of image pixels as one of latents, (B, 1, H / factor, W / factor): a cell's mean."""
        return F.avg_pool2d(mask, self.factor)

    @abstractmethod
    def memory(self, height: int, width: int, bands: Bands | None = None) -> int: ...

    @abstractmethod
    def _encode(self, image: Tensor, bands: Bands | None) -> Tensor: ...

    @abstractmethod
    def _decode(self, latent: Tensor, bands: Bands | None) -> Tensor: ...
