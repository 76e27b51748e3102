"""ComfyUI's VAEs, decoded and encoded exactly in bands of rows."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.models import autoencoder
from comfy.ldm.modules.diffusionmodules import model as layers
from torch import Tensor

from ...flowmapsr_core.codecs import exact_vae
from .host import ComfyHost

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

log = logging.getLogger("flowmapsr")

WORK_CPU, WORK = 1.5e10, 3e11  # operations on a band: cancelling waits for it, and its memory is beside what is held
AT_WORK = 2**30  # bytes for a band of the default height
FEWEST_ROWS = 8  # on a GPU, which is idle with less

Progress = Callable[[int, int], None]


def is_plain(vae: comfy.sd.VAE) -> bool:
    """Whether a VAE is an image ``AutoencoderKL``, of which the layers can be computed band by band."""
    stage = vae.first_stage_model
    parts = [type(getattr(stage, name, None)) for name in ("encoder", "decoder", "regularization")]
    return (
        type(stage) in (autoencoder.AutoencoderKL, autoencoder.AutoencodingEngine)
        and parts == [layers.Encoder, layers.Decoder, autoencoder.DiagonalGaussianRegularizer]
        and getattr(stage, "bn", None) is None  # it normalises latents by statistics that bands do not know
        and vae.latent_dim == 2
        and not any(len(level.attn) for level in (*stage.encoder.down, *stage.decoder.up))
    )


def to_diffusers(vae: comfy.sd.VAE) -> "AutoencoderKL":
    """A plain VAE as diffusers' class; its weights are not copied if they are where and as they are needed.

    Weights that ComfyUI moves later stay where they were: hold the result no longer than one piece of work takes.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    stage = vae.first_stage_model
    widths = tuple(level.block[0].out_channels for level in stage.encoder.down)
    with torch.device("meta"):
        exact = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=stage.encoder.num_res_blocks,
            latent_channels=stage.decoder.conv_in.in_channels,
            norm_num_groups=stage.decoder.norm_out.num_groups,
            use_quant_conv=hasattr(stage, "quant_conv"),
            use_post_quant_conv=hasattr(stage, "post_quant_conv"),
        )
    # with dynamic VRAM, ComfyUI keeps them as they are in the file
    weights = {name: weight.to(vae.device, vae.vae_dtype) for name, weight in stage.state_dict().items()}
    exact.load_state_dict(convert_ldm_vae_checkpoint(weights, exact.config), assign=True)
    return exact.requires_grad_(False).eval()


def decode(vae: comfy.sd.VAE, latent: Tensor, rows: int = 0, progress: Progress | None = None) -> Tensor:
    """What a plain VAE's ``first_stage_model.decode(latent)`` is, exactly, in less memory.

    Args:
        latent: (B, C, h, w) as ComfyUI's nodes pass it, not scaled.
        rows: height of a band in image pixels; 0 to choose.
        progress: called as ``progress(done, total)`` after every band. Raise from it to cancel.

    Returns:
        (B, 3, H, W) float32 about [-1, 1], where ComfyUI keeps images.
    """
    factor = vae.spacial_compression_decode()
    return in_bands(exact_vae.decode, vae, latent, [side * factor for side in latent.shape[-2:]], rows, progress)


def encode(vae: comfy.sd.VAE, image: Tensor, rows: int = 0, progress: Progress | None = None) -> Tensor:
    """What a plain VAE's ``first_stage_model.encode`` makes of an image (B, 3, H, W) in [-1, 1]; see :func:`decode`."""
    return in_bands(exact_vae.encode, vae, image, image.shape[-2:], rows, progress)


def in_bands(
    work: Callable[..., Tensor],
    vae: comfy.sd.VAE,
    x: Tensor,
    size: Sequence[int],
    rows: int,
    progress: Progress | None,
) -> Tensor:
    """``exact_vae.decode`` or ``encode`` of every image of a batch, which are ``size`` pixels."""
    height, width = size
    widths = [level.block[0].out_channels for level in vae.first_stage_model.encoder.down]
    host, on_cpu = ComfyHost(vae.device), comfy.model_management.is_device_cpu(vae.device)
    rows = rows or default_rows(widths, height, width, on_cpu)
    # what is held is a residual block's input and its branch, with every pixel
    memory = AT_WORK + sum(widths[:2]) * height * width * vae.vae_dtype.itemsize
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=True)
    exact = to_diffusers(vae)
    offload = not on_cpu and memory > host.free_memory()
    run = partial(work, exact, offload=offload)
    parts = []
    for index, single in enumerate(x.to(vae.device).split(1)):
        report = banded(host, progress, index, len(x))
        try:
            part = run(single, rows, progress=report)
        except Exception as error:
            if not host.is_out_of_memory(error):
                raise
            part = None
        if part is None:  # out here, as the exception holds the tensors of the first attempt
            log.warning("out of memory; once more in bands of %d rows, in host memory", FEWEST_ROWS)
            part = run(single, FEWEST_ROWS, offload=True, progress=report)
        parts.append(part.to(vae.output_device).float())
    return torch.cat(parts)


def default_rows(widths: Sequence[int], height: int, width: int, on_cpu: bool) -> int:
    """Rows of a band for a VAE with these channels per level: as many as are computed between two looks at cancel."""
    factor = 2 ** (len(widths) - 1)
    convolution = 18 * max(widths[:2]) ** 2 * width  # a row with every pixel, a 3x3 kernel
    attention = 4 * widths[-1] * (width // factor) * (height // factor * width // factor)  # a row of latent cells
    rows = int((WORK_CPU if on_cpu else WORK) / max(convolution, attention))
    return max(rows, 1 if on_cpu else FEWEST_ROWS)


def banded(host: ComfyHost, progress: Progress | None, index: int, number: int) -> Progress:
    """What is done after a band of image ``index`` of several: the user may have cancelled, and looks on."""

    def report(done: int, total: int) -> None:
        host.check_cancelled()
        if progress is not None:
            progress(index * total + done, number * total)

    return report
