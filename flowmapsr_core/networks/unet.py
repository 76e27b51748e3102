"""UNet: the convolution-and-attention network of SDXL in the shape of Latent Bridge Matching (arXiv 2503.07535).

diffusers' ``UNet2DConditionModel`` with no text to attend to: the second attention of every transformer block looks at
the image itself. The weights' names are diffusers' own behind ``unet.``; all but those of ``class_embedding`` are also
in an LBM checkpoint. diffusers is imported when a network is built, not before: that takes seconds.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..method.conditioning import fourier_embedding
from .parts import zero

FOURIER_DIM = 256
TIME_SCALE = 1000.0  # SDXL's time embedding expects steps of a thousandth


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a :class:`UNet`; the defaults are preset ``xl``.

    Attributes:
        channels: of the latents it works on.
        widths: channels per level; each level halves the resolution of the one before.
        layers: residual blocks per level on the way down; one more on the way up.
        depth: transformer blocks after each of them, per level; 0 for a level without attention.
        heads: attention heads per level.
        prompt_dim: size of a prompt embedding; SDXL's second text encoder gives 1280 numbers.
        groups: of the group norms.
        inputs: images stacked at its input; of two, the second is LR.
    """

    channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280)
    layers: int = 2
    depth: tuple[int, ...] = (0, 2, 10)
    heads: tuple[int, ...] = (5, 10, 20)
    prompt_dim: int = 1280
    groups: int = 32
    inputs: int = 1

    def __post_init__(self) -> None:
        for name in ("widths", "depth", "heads"):
            value = getattr(self, name)
            if not (isinstance(value, (list, tuple)) and value and all(isinstance(item, int) for item in value)):
                raise ValueError(f"network.{name} must be a list of whole numbers, one a level")
            object.__setattr__(self, name, tuple(value))
        for name in ("channels", "layers", "prompt_dim", "groups", "inputs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be a whole number of at least 1")
        if not len(self.widths) == len(self.depth) == len(self.heads):
            raise ValueError("network.widths, depth and heads need one entry a level")
        if min(*self.widths, *self.heads) < 1 or min(self.depth) < 0:
            raise ValueError("network.widths and heads must be at least 1, depth at least 0")
        if self.depth[-1] < 1:
            raise ValueError("network.depth must be at least 1 at the last level: the middle of the network attends")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % self.groups or width % heads:
                raise ValueError(f"network.widths: {width} does not split into {self.groups} groups and {heads} heads")


PRESETS = {
    "xl": UNetConfig(),
    "small": UNetConfig(widths=(128, 192, 320), depth=(0, 1, 2), heads=(2, 3, 5)),
    "tiny": UNetConfig(widths=(16, 24, 32), layers=1, depth=(0, 1, 1), heads=(2, 3, 4), prompt_dim=8, groups=8),
}


class UNet(nn.Module):
    """Average velocity ``u(x, t, s)`` as a function of the whole input.

    A fresh ``class_embedding`` adds nothing, so with the weights of a model that knows t only, u is that model's output
    for any s, guidance and prompt.
    """

    Config = UNetConfig
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # the projections of every attention
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    storage_dtypes = (torch.float8_e4m3fn,)
    receptive_radius = None  # attention and group norms see everything
    unet: Any  # a UNet2DConditionModel, whose annotations leave open which parts there are

    def __init__(self, config: UNetConfig | None = None) -> None:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        super().__init__()
        self.config = config = config or UNetConfig()
        self.channels = config.channels
        # keyword arguments as a dictionary: diffusers declares tuples, and reads lists
        arguments: dict[str, Any] = {
            "in_channels": config.inputs * config.channels,
            "out_channels": config.channels,
            "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depth],
            "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.depth)],
            "block_out_channels": list(config.widths),
            "layers_per_block": config.layers,
            "norm_num_groups": config.groups,
            "cross_attention_dim": list(config.widths),  # what the second attention looks at is the image
            "transformer_layers_per_block": list(config.depth),
            "attention_head_dim": list(config.heads),  # diffusers calls the number of heads so
            "use_linear_projection": True,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * FOURIER_DIM + config.prompt_dim,
        }
        self.unet = UNet2DConditionModel(**arguments)
        zero(self.unet.class_embedding.linear_2)

    def checkpoint_activations(self) -> None:
        """Save memory in training at the price of time: residual and transformer blocks are computed again."""
        self.unet.enable_gradient_checkpointing()

    @property
    def stride(self) -> int:
        """Latent cells that tile origins and sizes must be multiples of."""
        return 2 ** (len(self.config.widths) - 1)

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell; fused attention keeps no matrix of its own.

        The peak is on the way up, in the first residual block of a level (its input, that normalised and activated) or
        in the gated layer of a transformer block, which with what is around it keeps 21 times the width: fitted to the
        live tensors of evaluations at thirteen shapes, and exact for each of them.
        """
        config, skips, peak = self.config, 0.0, 0.0
        for level, (width, depth) in enumerate(zip(config.widths, config.depth, strict=True)):
            cells = 0.25**level
            skips += (config.widths[max(level - 1, 0)] + config.layers * width) * cells
            below = config.widths[min(level + 1, len(config.widths) - 1)]
            block = max(3 * (below + width), 21 * width if depth else 0)
            peak = max(peak, skips + (below + block) * cells)
        return math.ceil(peak)

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """The conditioning vector, constant over an image.

        Args:
            t, s: times (B,), float32, ``0 <= s <= t <= 1``.
            prompt: prompt embedding (B, prompt_dim), in the dtype of the evaluation.
            guidance: guidance scale (B,), 1 for none.

        Returns:
            (B, 4 widths[0]) in the prompt's dtype; sines and cosines are taken in float32.
        """
        time = self.unet.time_embedding(self.unet.time_proj(TIME_SCALE * t.float()).to(prompt.dtype))
        scalars = torch.cat([fourier_embedding(value, FOURIER_DIM) for value in (s, guidance)], dim=1)
        return time + self.unet.class_embedding(torch.cat([scalars.to(prompt.dtype), prompt], dim=1))

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Predict the average velocity.

        Args:
            x: latents (N, inputs * channels, H, W), H and W multiples of :attr:`stride`.
            condition: from :meth:`embed`, (N, D), or (1, D) for all of them.

        Returns:
            u, (N, channels, H, W), of the dtype of ``x``.
        """
        unet = self.unet
        skips = [unet.conv_in(x)]
        for block in unet.down_blocks:
            skips.extend(block(skips[-1], condition)[1])  # what it returns first is the last of these
        h = unet.mid_block(skips[-1], condition)
        for block in unet.up_blocks:
            count = len(block.resnets)
            h = block(h, tuple(skips[-count:]), condition)
            del skips[-count:]
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """:meth:`evaluate` under the condition that :meth:`embed` gives."""
        return self.evaluate(x, self.embed(t, s, prompt, guidance))
