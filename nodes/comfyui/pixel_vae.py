"""What stands for the VAE of a model that has none in the usual sense."""

import comfy.sd
import torch
from torch import Tensor

from ...flowmapsr_core import UserError
from ...flowmapsr_core.codecs import PixelCodec


class PixelVAE(comfy.sd.VAE):
    """A lossless pixel codec in the role of a VAE: all of ComfyUI's nodes for VAEs take it.

    It is ComfyUI's own VAE for models that work on pixels, with ``factor`` x ``factor`` pixels in a latent cell.
    """

    def __init__(self, codec: PixelCodec) -> None:
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
        self.first_stage_model.encode = codec.encode
        self.first_stage_model.decode = codec.decode
        self.process_input = lambda image: image
        self.process_output = lambda image: image.clamp_(0, 1)  # in place: ComfyUI since 0.18 drops what it returns
        self.downscale_ratio = self.upscale_ratio = codec.factor
        self.latent_channels = codec.channels
        self.memory_used_encode = lambda shape, dtype: 4 * 3 * shape[2] * shape[3] * dtype.itemsize
        self.memory_used_decode = lambda shape, dtype: 4 * shape[1] * shape[2] * shape[3] * dtype.itemsize

    def decode_as_it_is(self, latent: Tensor) -> Tensor:
        """Images (B, H, W, 3) of latents, also colours beyond [0, 1], which a correction may still bring back."""
        return self.first_stage_model.decode(latent.float()).movedim(1, -1)


class NoVAE(comfy.sd.VAE):
    """In place of a VAE that there is not: the node that it is connected to says ``why`` when it runs."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.first_stage_model = None
        self.size = 0
        self.downscale_ratio = self.upscale_ratio = 8
        self.latent_channels = 4

    def throw_exception_if_invalid(self) -> None:
        """Raise the :class:`UserError` that tells what to do instead."""
        raise UserError(self.why)
