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

    @property
    def floats_per_pixel(self) -> int:
        """Numbers alive at the peak, per image pixel: a residual block's input, and it normalised and activated."""
        return 3 * self._full_size_widths[-1]

    @property
    def floats_per_pixel_in_bands(self) -> int:
        """The same in bands: the input of that residual block, and its branch."""
        return sum(self._full_size_widths)

    @property
    def _full_size_widths(self) -> tuple[int, ...]:
        return self.config.block_out_channels[:2]

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
