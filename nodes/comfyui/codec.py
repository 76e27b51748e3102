"""ComfyUI's VAEs in the place of a model's codec."""

import comfy.model_management
import comfy.sd
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...flowmapsr_core import UserError
from ...flowmapsr_core.codecs import Bands, TinyVAECodec, TinyVAECodecConfig, VAECodec, VAECodecConfig
from . import vae_bands as comfy_vae

PREFIX = "codec.vae."  # of a VAE's weights in a checkpoint
STANDARD = (128, 256, 512, 512)  # the widths that ComfyUI finds out by itself
GROUPS = 32  # of every GroupNorm in ComfyUI's VAEs


class ComfyCodec(VAECodec):
    """A codec that a ComfyUI VAE does the work of: ComfyUI loads its weights and frees them.

    Args:
        config: of the checkpoint's codec: the scale of its latents.
        vae: None until one is connected.
    """

    def __init__(self, config: VAECodecConfig, vae: comfy.sd.VAE | None = None) -> None:
        nn.Module.__init__(self)  # it has no weights of its own
        self.config = config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.comfy_vae = vae

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the VAE."""
        return self._connected().vae_dtype

    def _connected(self) -> comfy.sd.VAE:
        """The VAE; :class:`UserError` if there is none or it is of another kind than the model's."""
        vae = self.comfy_vae
        if vae is None:
            raise UserError(
                "this model has no VAE of its own; use Flow Map Sampler, and connect the VAE that it was trained on"
            )
        vae.throw_exception_if_invalid()
        found = (vae.latent_channels, vae.spacial_compression_decode())
        if vae.latent_dim != 2 or found != (self.channels, self.factor):
            raise UserError(
                f"the VAE makes latents of {found[0]} channels, {found[1]} pixels a cell; this model works on "
                f"{self.channels} channels, {self.factor} pixels a cell; connect the VAE that it was trained on"
            )
        return vae

    def _encode(self, image: Tensor, bands: Bands | None) -> Tensor:
        vae, rows, progress = self._connected(), *settings(bands)
        if comfy_vae.is_plain(vae):
            return comfy_vae.encode(vae, image, rows, progress).to(image.device)
        return vae.encode((image.float() * 0.5 + 0.5).movedim(1, -1)).to(image.device)

    def _decode(self, latent: Tensor, bands: Bands | None) -> Tensor:
        vae, rows, progress = self._connected(), *settings(bands)
        if comfy_vae.is_plain(vae):
            return comfy_vae.decode(vae, latent, rows, progress).to(latent.device)
        return vae.decode(latent.float()).movedim(-1, 1).to(latent.device) * 2 - 1


def settings(bands: Bands | None) -> tuple[int, comfy_vae.Progress | None]:
    """Height of a band and what to call after each; where bands lie is decided when their memory is asked for."""
    return (bands.rows, bands.progress) if bands else (0, None)


def vae_of_checkpoint(path: str, config: VAECodecConfig) -> comfy.sd.VAE | None:
    """The VAE that a checkpoint brings, as ComfyUI's; None if it brings none.

    Raises :class:`UserError` if ComfyUI cannot build one of its shape.
    """
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
        weights = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    if not weights:
        return None
    widths = config.block_out_channels
    # then ComfyUI takes the widths from a configuration
    own_shape = len(widths) == len(STANDARD) and config.use_quant_conv
    if config.norm_num_groups != GROUPS or not (widths == STANDARD or own_shape):
        raise UserError(f"{path} has a VAE of a shape that ComfyUI does not know; upscale with the flowmapsr command")
    if widths == STANDARD:
        return comfy.sd.VAE(sd=weights)
    shape = {
        "double_z": True,
        "z_channels": config.latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": shape, "embed_dim": config.latent_channels}})
    vae.latent_channels = config.latent_channels
    return vae


def tiny_vae(codec: TinyVAECodec) -> comfy.sd.VAE | None:
    """A copy of a tiny VAE as ComfyUI's; None if ComfyUI cannot build one of its shape."""
    scale = {"scaling_factor": codec.config.scaling_factor, "shift_factor": codec.config.shift_factor}
    if codec.config != TinyVAECodecConfig(**scale, latent_channels=codec.config.latent_channels):
        return None
    weights = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    for name, weight in codec.vae.state_dict().items():
        part, _, number, rest = name.split(".", 3)  # encoder.layers.3.conv.0.weight
        # ComfyUI's decoder begins with a layer for what diffusers' does to its input
        weights[f"taesd_{part}.{int(number) + (part == 'decoder')}.{rest}"] = weight.clone()
    return comfy.sd.VAE(sd=weights)
