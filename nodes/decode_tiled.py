"""Exact Tiled VAE Decode."""

import logging
from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import UserError
from ..flowmapsr_core.codecs import FrozenVAE
from ..flowmapsr_core.images.wrap import surround, without
from .comfyui.images import PIXEL_SIZE, given_out, join_alpha
from .comfyui.pixel_vae import PixelVAE
from .comfyui.progress import percent
from .comfyui.schema import make_schema
from .comfyui.vae_bands import decode, is_plain
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of

log = logging.getLogger("flowmapsr")


class DecodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_DecodeTiled",
            display_name="Exact Tiled VAE Decode",
            category="image/upscaling/FlowMapSR",
            description="Decodes large latents in little memory, without seams: the picture that VAE Decode gives.",
            search_aliases=["vae decode", "tiled decode", "low memory", "no seams", "latent to image"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latents of any model, one or a batch."),
                io.Vae.Input("vae", tooltip="The VAE they belong to, as for VAE Decode."),
                io.Int.Input(
                    "band",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Pixel rows at work at once: fewer need less memory, the picture is the same. 0 chooses.",
                ),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The decoded images.")],
        )

    @classmethod
    def execute(cls, samples: dict, vae, band: int, wrap: str = NO_WRAP) -> io.NodeOutput:
        latent = samples["samples"]
        if latent.is_nested:
            latent = latent.unbind()[0]  # of video and sound: the video, as in VAE Decode
        vae.throw_exception_if_invalid()
        if latent.shape[1] != vae.latent_channels:
            raise UserError(
                f"the latent has {latent.shape[1]} channels, this VAE takes {vae.latent_channels}; "
                f"connect the VAE that the latent was made for"
            )
        reach = 0 if isinstance(vae, PixelVAE) or latent.ndim != 4 else FrozenVAE.reach
        down, along = (reach * (axis in wrap_of(wrap)) for axis in "yx")
        around = surround(latent, down, along, wrap_of(wrap))
        if is_plain(vae) and latent.ndim == 4:
            image = join_alpha(vae.process_output(decode(vae, around, band, percent())))
        elif isinstance(vae, PixelVAE):
            image = given_out(vae.decode_as_it_is(around))
        else:
            kind = type(vae.first_stage_model).__name__
            log.warning(
                "%s cannot be computed band by band; it is decoded as by VAE Decode, which blends tiles "
                "where memory runs out",
                kind,
            )
            image = vae.decode(around)
            image = image.reshape(-1, *image.shape[-3:])  # a video's frames become a batch, as in VAE Decode
        if wrap_of(wrap):
            cell = vae.spacial_compression_decode()
            image = without(image.movedim(-1, 1), down * cell, along * cell).movedim(1, -1)
        return io.NodeOutput(crop(image, latent.shape[-2:], samples.get(PIXEL_SIZE, image.shape[1:3])))


def crop(image: Tensor, cells: Sequence[int], size: Sequence[int]) -> Tensor:
    """The image (B, H, W, 3) at the size it was sampled for, where the latent's cells go on beyond that."""
    factors = [side / cell for side, cell in zip(image.shape[1:3], cells, strict=True)]
    fits = all(0 <= cell * factor - side < factor for side, cell, factor in zip(size, cells, factors, strict=True))
    return image[:, : size[0], : size[1]] if fits else image
