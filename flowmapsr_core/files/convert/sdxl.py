"""Stable Diffusion XL's UNet, in diffusers' names or in those of its authors' single-file checkpoints.

It attends to a text, FlowMapSR's to the image, and it knows the size of the picture. What it computes for the empty
prompt (text states and pooled embedding zero) and an uncropped picture of 1024 x 1024 is kept exactly: zero states have
zero values, so ``to_v`` starts at zero; and what the size adds to the time embedding is a constant, which goes into
that embedding's last bias. Its output is the noise of its own diffusion, no velocity: training makes it one.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from ..diffusers_folder import read_tensors, unet_config
from .unet import UNetSource, check_channels

PREFIX = "model.diffusion_model."  # in single-file checkpoints
LABEL = PREFIX + "label_emb.0.0.weight"  # SDXL has a label embedding, its predecessors have none
ADDED = "add_embedding."
TEXT_PROJECTION = re.compile(r"(.*\.attn2\.)to_([kv])\.weight")
TIME_BIAS = "time_embedding.linear_2.bias"
SIZES = (1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0)  # original height and width, top and left of the crop, target's
SIZE_DIM = 256  # of the embedding of each


def read_single_file(path: Path, names: list[str]) -> UNetSource:
    """The UNet of an SDXL checkpoint in its authors' names."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    tensors = read_tensors(path)
    halved = (re.fullmatch(re.escape(PREFIX) + r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in names)
    others = tuple(name for name in names if not name.startswith(PREFIX))
    try:
        layers = min(int(match[1]) for match in halved if match) - 1
        settings = {"layers_per_block": layers, "addition_embed_type": "text_time"}
        renamed = convert_ldm_unet_checkpoint(tensors, settings)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is a checkpoint of another shape than SDXL's ({error})") from error
    return from_unet(path, renamed, {}, others)


def from_unet(
    path: Path, tensors: dict[str, Tensor], settings: dict[str, Any], others: tuple[str, ...] = ()
) -> UNetSource:
    """SDXL's UNet without text.

    Args:
        path: named in errors.
        tensors: its weights in diffusers' names.
        settings: diffusers' configuration; empty for SDXL's.
        others: names of what the file holds besides.
    """
    config = unet_config(path, tensors, settings)
    check_channels(path, tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(ADDED)}
    replaced = {name: match for name in kept if (match := TEXT_PROJECTION.fullmatch(name))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same file every time
        for name, match in replaced.items():
            width = kept[f"{match[1]}to_q.weight"].shape[1]
            kept[name] = _projection(width, kept[name], zero=match[2] == "v")
    bias = kept[TIME_BIAS]
    kept[TIME_BIAS] = bias.float() + _addition(tensors, settings.get("addition_time_embed_dim", SIZE_DIM))
    dropped = tuple(name for name in tensors if name.startswith(ADDED))
    return UNetSource(path, "SDXL's UNet", config, kept, (TIME_BIAS,), tuple(replaced), (*dropped, *others))


def _projection(width: int, text: Tensor, zero: bool) -> Tensor:
    """Projection of image features, in place of one of text states, (inner, width)."""
    weight = torch.empty(text.shape[0], width)
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(weight)
    return weight.to(text.dtype)


def _addition(tensors: dict[str, Tensor], size_dim: int) -> Tensor:
    """What SDXL adds to the time embedding for the empty prompt and the sizes above, float32."""
    from diffusers.models.embeddings import get_timestep_embedding

    weight1, bias1, weight2, bias2 = (
        tensors[f"{ADDED}linear_{layer}.{part}"].float() for layer in (1, 2) for part in ("weight", "bias")
    )
    sizes = get_timestep_embedding(torch.tensor(SIZES), size_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    pooled = torch.zeros(weight1.shape[1] - sizes.numel())
    return F.linear(F.silu(F.linear(torch.cat([pooled, sizes.flatten()]), weight1, bias1)), weight2, bias2)
