"""What networks with the body of a published upscaler have in common: they paint the picture that LR stands for.

Such an upscaler sees the LR image on its own grid. Here LR has been enlarged to the HR grid already, and is seen in
cells of as many HR pixels as the upscaler made of one LR pixel: the body works at the resolution that it had there.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Condition, ScaleShift, zero

BLACK = -1.0


@dataclass(frozen=True)
class UpscalerConfig:
    """Shape of an :class:`Upscaler`, whatever its body is.

    Attributes:
        unshuffle: pixel-unshuffle factor of the latents it works on; they have ``3 * unshuffle**2`` channels.
        width: channels of the features.
        condition_dim: size of the conditioning vector.
        prompt_dim: size of a prompt embedding (a learned vector; this network reads no text).
        inputs: images stacked at its input; of two, the second is LR.
    """

    unshuffle: int = 4
    width: int = 64
    condition_dim: int = 128
    prompt_dim: int = 64
    inputs: int = 1

    def __post_init__(self) -> None:
        if min(self.unshuffle, self.width, self.condition_dim, self.prompt_dim, self.inputs) < 1:
            raise ValueError("network: every width and size must be at least 1")


class Upscaler(nn.Module):
    """Average velocity ``u(x, t, s) = x - picture``, where the picture is a base picture and a body's addition to it.

    With two inputs x is the first, and LR the last. In a fresh network the base picture is the last input, and the body
    should start at zero: then u is 0, or the noise.
    """

    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    storage_dtypes = (torch.float8_e4m3fn,)
    stride = 1  # latent cells that tile origins and sizes must be multiples of

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.channels = 3 * config.unshuffle**2
        self.condition = Condition(config.prompt_dim, config.condition_dim)
        self.stem = nn.Conv2d(config.inputs * self.channels, config.width, 3)
        self.base = nn.Conv2d(config.inputs * self.channels, self.channels, 3)
        self.base_modulation = ScaleShift(self.channels, config.condition_dim)
        zero(self.base)
        with torch.no_grad():
            nn.init.dirac_(self.base.weight[:, -self.channels :])

    def body(self, h: Tensor, condition: Tensor) -> Tensor:
        """What is added to the base picture, (N, channels, H, W), by the features (N, width, H, W) of the stem."""
        raise NotImplementedError

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """The conditioning vector (B, condition_dim), constant over an image: see :meth:`.parts.Condition.embed`."""
        return self.condition.embed(t, s, prompt, guidance)

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Predict the average velocity.

        Args:
            x: latents (N, inputs * 3 unshuffle^2, H, W).
            condition: from :meth:`embed`, (N, D), or (1, D) for all of them.

        Returns:
            u, (N, 3 unshuffle^2, H, W), of the dtype of ``x``.
        """
        # it is black around the image: so it was for the upscalers, which pad pixels in [0, 1] with zeros
        seen = F.pad(x, (1, 1, 1, 1), value=BLACK).contiguous(memory_format=torch.channels_last)
        base = self.base_modulation(self.base(seen), condition)
        return x[:, : self.channels] - (base + self.body(self.stem(seen), condition))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """:meth:`evaluate` under the condition that :meth:`embed` gives."""
        return self.evaluate(x, self.embed(t, s, prompt, guidance))
