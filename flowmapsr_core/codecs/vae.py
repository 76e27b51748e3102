"""The VAE of Stable Diffusion XL and others of its class."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import exact_vae
from .bands import Bands
from .frozen import FrozenVAE

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@dataclass(frozen=True)
class VAECodecConfig:
    """Shape of an ``AutoencoderKL`` and the scale of its latents; the defaults are SDXL's.

    Attributes:
        scaling_factor, shift_factor: a scaled latent is ``(latent - shift_factor) * scaling_factor``.
        latent_channels: channels of a latent.
        block_out_channels: channels per level; each level halves the resolution of the one before.
        layers_per_block: residual blocks per level of the encoder; the decoder has one more.
        norm_num_groups: groups of every GroupNorm.
        use_quant_conv: whether 1x1 convolutions follow the encoder and precede the decoder.
        probe: the scaled latent of a test picture, which tells VAEs of one shape apart; empty if not known.
    """

    scaling_factor: float = 0.13025
    shift_factor: float = 0.0
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    probe: tuple[float, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("block_out_channels", "probe"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.scaling_factor > 0:
            raise ValueError(f"codec.scaling_factor is {self.scaling_factor}; it must be above 0")


class VAECodec(FrozenVAE):
    """Codec of an ``AutoencoderKL``: a latent is the mean of the posterior, scaled."""

    Config = VAECodecConfig
    vae: "AutoencoderKL"

    def __init__(self, config: VAECodecConfig | None = None) -> None:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.config = config = config or VAECodecConfig()
        levels = len(config.block_out_channels)
        self.factor = 2 ** (levels - 1)
        # as a dictionary: diffusers declares tuples of one entry, and reads any number
        arguments: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": config.block_out_channels,
            "layers_per_block": config.layers_per_block,
            "latent_channels": config.latent_channels,
            "norm_num_groups": config.norm_num_groups,
            "scaling_factor": config.scaling_factor,  # for those who save it: scaling is done here
            "shift_factor": config.shift_factor or None,
            "use_quant_conv": config.use_quant_conv,
            "use_post_quant_conv": config.use_quant_conv,
        }
        super().__init__(AutoencoderKL(**arguments))

    def memory(self, height: int, width: int, bands: Bands | None = None) -> int:
        """Bytes at the peak, beside the image: of the finest layers, or of the keys and values of the attention.

        At once, a residual block has its input, and that normalised and activated. In bands, what is at work is a few
        of them put together and convolved; beside it, that input gives way to the block's branch and its result.
        """
        fine, wide = self.config.block_out_channels[0], self.config.block_out_channels[:2][-1]
        if bands is None:
            floats = 3 * wide * height * width
        else:
            attention = 2 * self.config.block_out_channels[-1] * height * width // self.factor**2
            at_work = 6 * wide * min(bands.rows + 2, height) * width
            held = 0 if bands.offload else max(2 * fine, wide) * height * width
            floats = max(attention, at_work + held)
        return floats * self.dtype.itemsize

    def _encode(self, image: Tensor, bands: Bands | None) -> Tensor:
        if bands is not None:
            return exact_vae.encode(self.vae, image, bands.rows, offload=bands.offload, progress=bands.progress)
        (posterior,) = self.vae.encode(image, return_dict=False)
        return posterior.mode()

    def _decode(self, latent: Tensor, bands: Bands | None) -> Tensor:
        if bands is not None:
            return exact_vae.decode(self.vae, latent, bands.rows, offload=bands.offload, progress=bands.progress)
        (image,) = self.vae.decode(latent, return_dict=False)  # pyright: ignore[reportArgumentType]
        return image
