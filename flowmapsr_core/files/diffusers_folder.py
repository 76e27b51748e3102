"""UNets in diffusers' folder layout: those of other models, and a FlowMapSR model saved so.

A FlowMapSR model is ``unet/`` (``model.network.unet.save_pretrained``), optionally ``vae/``, and optionally
``prompts.safetensors`` with the embeddings ``positive`` and ``negative``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..codecs import TinyVAECodec, VAECodec
from ..errors import UserError, WithoutVAE
from ..model import FlowMap, Model
from ..networks import UNet, UNetConfig
from ..networks.unet import FOURIER_DIM
from .layout import WEIGHTS, count, read_settings, weight_files
from .safetensors_file import Shapes, misfit, read_metadata
from .vae_file import load_vae

HEAD_WIDTH = 64  # of SDXL's attention; no shape tells
# what changes the output, and shows in no weight's name or shape
SETTINGS = (
    "act_fn", "attention_type", "center_input_sample", "cross_attention_norm", "flip_sin_to_cos", "freq_shift",
    "mid_block_only_cross_attention", "mid_block_scale_factor", "norm_eps", "only_cross_attention",
    "resnet_out_scale_factor", "resnet_skip_time_act", "resnet_time_scale_shift", "time_embedding_act_fn",
    "time_embedding_type", "timestep_post_act",
)  # fmt: skip


def load_folder(folder: Path, vae: Path | VAECodec | TinyVAECodec | None = None) -> Model:
    """Load a FlowMapSR model from a diffusers folder, onto the CPU.

    Args:
        folder: with ``unet/`` in it.
        vae: VAE to use in place of ``vae/``, or because there is none, or its path.

    Raises:
        UserError: a part is missing, damaged or does not fit the others, or the UNet is another model's.
    """
    settings, tensors = read_unet(folder / "unet")
    if settings.get("class_embed_type") != "projection":
        raise UserError(
            f"{folder} holds another model's UNet, not FlowMapSR's; make a checkpoint of it with 'flowmapsr convert'"
        )
    config = unet_config(folder, tensors, settings)
    with torch.device("meta"):
        network = UNet(config)
    if wrong := misfit(shapes_of(network.unet.state_dict()), shapes_of(tensors)):
        raise UserError(f"{folder} holds a UNet of another shape than FlowMapSR's: {wrong}")
    vae = vae or folder / "vae"
    if isinstance(vae, Path) and not vae.exists():
        raise WithoutVAE(folder)
    codec = load_vae(vae) if isinstance(vae, Path) else vae
    if codec.channels != network.channels:
        raise UserError(
            f"{folder} does not fit its VAE: that has {codec.channels} channels, the UNet {network.channels}; give "
            f"another one with --vae"
        )
    network.unet.load_state_dict(tensors, assign=True)
    model = Model(FlowMap(network), codec, {"title": folder.name})
    if (prompts := folder / "prompts.safetensors").is_file():
        _read_prompts(prompts, model)
    return model


def read_unet(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of a UNet in diffusers' layout; the weights are read from the disk when they are used.

    Raises :class:`UserError` if the folder holds no ``UNet2DConditionModel`` in safetensors, or it is damaged.
    """
    settings = read_settings(folder / "config.json")
    if settings.get("_class_name") != "UNet2DConditionModel":
        raise UserError(f"{folder} holds {settings.get('_class_name', 'another model')}, not UNet2DConditionModel")
    indices = weight_files(folder, ".index*.json")
    if indices:
        files = sorted({folder / name for name in read_settings(indices[0]).get("weight_map", {}).values()})
    else:
        files = weight_files(folder)[:1]
    if not files:
        raise UserError(f"{folder} has no {WEIGHTS}.safetensors; other kinds of weights are never loaded")
    return settings, {name: tensor for file in files for name, tensor in read_tensors(file).items()}


def read_tensors(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix``, which is taken off; read from the disk when they are used."""
    _, shapes = read_metadata(file, "the weights of a UNet")
    with safe_open(file, framework="pt") as opened:
        return {n.removeprefix(prefix): opened.get_tensor(n) for n in shapes if n.startswith(prefix)}


def unet_config(source: Path, tensors: dict[str, Tensor], settings: dict[str, Any] | None = None) -> UNetConfig:
    """Shape of the UNet whose weights these are, in diffusers' names.

    Args:
        source: named in errors.
        tensors: what they do not show is the number of heads and of groups.
        settings: diffusers' configuration, if there is one; else these are SDXL's.

    Raises:
        UserError: it is a UNet that :class:`UNet` cannot be, whatever its configuration.
    """
    settings = settings or {}
    try:
        levels = count(tensors, r"down_blocks\.(\d+)\.")
        widths = [tensors[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
        heads = settings.get("num_attention_heads") or settings.get("attention_head_dim")  # diffusers' name for it
        heads = heads or [width // HEAD_WIDTH for width in widths]
        seen = tensors.get("class_embedding.linear_1.weight")
        config = UNetConfig(
            channels=tensors["conv_in.weight"].shape[1],
            widths=tuple(widths),
            layers=count(tensors, r"down_blocks\.0\.resnets\.(\d+)\."),
            depth=tuple(
                count(tensors, rf"down_blocks\.{level}\.attentions\.0\.transformer_blocks\.(\d+)\.")
                for level in range(levels)
            ),
            heads=tuple(heads) if isinstance(heads, list) else (heads,) * levels,
            prompt_dim=UNetConfig.prompt_dim if seen is None else seen.shape[1] - 2 * FOURIER_DIM,
            groups=settings.get("norm_num_groups", UNetConfig.groups),
        )
        with torch.device("meta"):
            wanted = UNet(config).unet.config
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} holds a UNet of another shape than SDXL's ({error})") from error
    for name in SETTINGS:
        if settings.get(name, wanted[name]) != wanted[name]:
            raise UserError(f"{source} holds a UNet of another kind than SDXL's: its {name} is {settings[name]}")
    return config


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _read_prompts(path: Path, model: Model) -> None:
    prompts = read_tensors(path)
    expected = {name: list(prompt.shape) for name, prompt in model.flow.prompts.items()}
    if wrong := misfit(expected, shapes_of(prompts)):
        raise UserError(f"{path} does not fit the UNet beside it: {wrong}")
    for name, prompt in prompts.items():
        model.flow.prompts[name].data.copy_(prompt)
