"""CompactNet: a plain chain of convolutions, the body of SRVGGNetCompact (Real-ESRGAN, arXiv 2107.10833).

With the weights of such an upscaler, which ``flowmapsr convert`` puts in, it paints that upscaler's picture.
"""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from .parts import Chain, ScaleShift, zero
from .upscaler import Upscaler, UpscalerConfig


@dataclass(frozen=True)
class CompactNetConfig(UpscalerConfig):
    """Shape of a :class:`CompactNet`; the defaults are those of Real-ESRGAN's general-x4v3.

    Attributes:
        layers: convolutions between the first and the last.
    """

    layers: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 0:
            raise ValueError("network.layers must be 0 or more")


class Layer(nn.Module):
    """The answers of one convolution, activated and modulated, are what the next one sees."""

    def __init__(self, width: int, out: int, condition_dim: int) -> None:
        super().__init__()
        self.activation = nn.PReLU(width)
        self.modulation = ScaleShift(width, condition_dim)
        self.conv = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return self.conv(self.modulation(self.activation(h), condition))


class CompactNet(Upscaler):
    """All convolutions work at the resolution of the cells; the last one gives a cell's pixels."""

    Config = CompactNetConfig
    lora_targets = ("conv",)  # of every layer

    def __init__(self, config: CompactNetConfig | None = None) -> None:
        config = config or CompactNetConfig()
        super().__init__(config)
        self.config = config
        widths = [config.width] * config.layers
        self.layers = Chain(Layer(config.width, out, config.condition_dim) for out in (*widths, self.channels))
        zero(cast(Layer, self.layers[-1]).conv)

    def checkpoint_activations(self) -> None:
        """Save memory in training at the price of time: see :class:`.parts.Chain`."""
        self.layers.recompute = True

    @property
    def receptive_radius(self) -> int:
        """How far, in latent cells, an output cell sees: one further with every convolution."""
        return self.config.layers + 2

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell: the images, and the last layer's."""
        width = self.config.width
        return (2 * self.config.inputs + 1) * self.channels + 3 * width + max(width, self.channels)

    def body(self, h: Tensor, condition: Tensor) -> Tensor:
        return self.layers(h, condition)
