"""VAEs from the files that people have."""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from ..codecs.probe import probe
from ..codecs.tiny_vae import TinyVAECodec, TinyVAECodecConfig
from ..codecs.vae import VAECodec, VAECodecConfig
from ..errors import UserError
from .layout import WEIGHTS, count, read_settings, weight_files
from .safetensors_file import misfit, read_metadata

WANTED = "a VAE: a .safetensors file, or a diffusers folder"
PREFIXES = ("", "first_stage_model.", "vae.")  # of a VAE alone, or in a checkpoint
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
KL, TINY = "decoder.conv_in.weight", "decoder.layers.0.weight"  # that only an AutoencoderKL or AutoencoderTiny has
SD_SCALING_FACTOR = 0.18215
SD_TEXT_ENCODER = "cond_stage_model."  # in checkpoints of Stable Diffusion 1 and 2; SDXL's is called otherwise
MOST_GROUPS = 32
# of attention layers, in diffusers before 0.18
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

AnyVAECodec = TypeVar("AnyVAECodec", VAECodec, TinyVAECodec)


def load_vae(path: Path) -> VAECodec | TinyVAECodec:
    """Load a VAE, recognised by its content; its weights are float32, on the CPU.

    Args:
        path: a diffusers folder (of the VAE, or of a pipeline with ``vae`` in it), or a safetensors file with an
            ``AutoencoderKL`` in diffusers' or the original names, alone or in a whole checkpoint, or with an
            ``AutoencoderTiny`` in diffusers' names. The scale of the latents is in a folder's ``config.json``; a file
            has none, and is taken for SDXL's unless it is a checkpoint of Stable Diffusion 1 or 2.

    Raises:
        UserError: there is no VAE, it is pickled or damaged, of a class that is not known, or its scale is not.
    """
    settings, file = _in_folder(path) if path.is_dir() else (None, path)
    _, shapes = read_metadata(file, WANTED)
    prefix = _find(file, shapes.keys())
    names = [name for name in shapes if name.startswith(tuple(prefix + part for part in PARTS))]
    with safe_open(file, framework="pt") as opened:
        tensors = {name.removeprefix(prefix): opened.get_tensor(name).float() for name in names}
    if settings is None and any(name.startswith(SD_TEXT_ENCODER) for name in shapes):
        settings = {"scaling_factor": SD_SCALING_FACTOR}
    try:
        if not any(name.startswith("encoder.") for name in tensors):
            raise ValueError("it has no encoder")
        return _tiny_vae(tensors, settings or {}) if TINY in tensors else _vae(tensors, settings)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{file} holds a VAE that cannot be used: {error}; give one like SDXL's or TAESD") from error


def _in_folder(folder: Path) -> tuple[dict[str, Any], Path]:
    """Configuration and weights file of a diffusers folder."""
    config = next((c for c in (folder / "config.json", folder / "vae" / "config.json") if c.is_file()), None)
    if config is None:
        raise UserError(f"{folder} has no config.json, and no vae/config.json; give {WANTED}")
    settings, files = read_settings(config), weight_files(config.parent)
    if not files:
        pickled = bool(weight_files(config.parent, ".bin"))
        found = "pickled weights only, which are never loaded" if pickled else "no weights"
        raise UserError(f"{config.parent} has {found}; download {WEIGHTS}.safetensors into it")
    return settings, files[0]


def _find(path: Path, names: Collection[str]) -> str:
    """What the names of the VAE's tensors begin with."""
    for prefix in PREFIXES:
        if any(prefix + name in names for name in (KL, TINY)):
            return prefix
    some = ", ".join(sorted(names)[:2])
    raise UserError(f"{path} holds no VAE but {len(names)} other tensors ({some}, ...); give {WANTED}")


def _vae(tensors: dict[str, Tensor], settings: dict[str, Any] | None) -> VAECodec:
    """Codec of an ``AutoencoderKL``, of the shape that its tensors have."""
    if any(name.startswith("encoder.down.") for name in tensors):
        tensors = _from_original(tensors)
    for old, new in OLD_NAMES.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    levels = range(count(tensors, r"encoder\.down_blocks\.(\d+)\."))
    widths = [tensors[f"encoder.down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in levels]
    config = VAECodecConfig(
        latent_channels=tensors[KL].shape[1],
        block_out_channels=tuple(widths),
        layers_per_block=count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        norm_num_groups=math.gcd(MOST_GROUPS, *widths),  # no shape tells; all that are published have 32
        use_quant_conv="quant_conv.weight" in tensors,
    )
    if settings is not None:
        _check_usual(settings, {"act_fn": "silu", "latents_mean": None, "latents_std": None})
        config = replace(
            config,
            scaling_factor=settings.get("scaling_factor", SD_SCALING_FACTOR),
            shift_factor=settings.get("shift_factor") or 0.0,
            norm_num_groups=settings.get("norm_num_groups", config.norm_num_groups),
        )
    elif config.latent_channels != VAECodecConfig.latent_channels:
        raise ValueError(f"its latents have {config.latent_channels} channels, and their scale is in its folder only")
    with torch.device("meta"):
        codec = VAECodec(config)
    _filled(codec, tensors)
    codec.config = replace(config, probe=probe(codec))
    return codec


def _from_original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ``AutoencoderKL`` in its authors' names, in diffusers'."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    levels = range(count(tensors, r"encoder\.down\.(\d+)\."))
    return convert_ldm_vae_checkpoint(tensors, {"down_block_types": levels, "up_block_types": levels})


def _tiny_vae(tensors: dict[str, Tensor], settings: dict[str, Any]) -> TinyVAECodec:
    """Codec of an ``AutoencoderTiny``, of the shape that its tensors have."""
    _check_usual(settings, {"act_fn": "relu", "upsample_fn": "nearest"})
    width, latent_channels = tensors[TINY].shape[:2]
    config = TinyVAECodecConfig(
        scaling_factor=settings.get("scaling_factor", TinyVAECodecConfig.scaling_factor),
        shift_factor=settings.get("shift_factor") or 0.0,
        latent_channels=latent_channels,
        width=width,
        encoder_blocks=_blocks(tensors, "encoder"),
        decoder_blocks=_blocks(tensors, "decoder"),
    )
    with torch.device("meta"):
        codec = TinyVAECodec(config)
    return _filled(codec, tensors)


def _filled(codec: AnyVAECodec, tensors: dict[str, Tensor]) -> AnyVAECodec:
    """A codec from the meta device, now with weights; ``ValueError`` if they are not its own."""
    expected, found = ({name: list(x.shape) for name, x in s.items()} for s in (codec.vae.state_dict(), tensors))
    if wrong := misfit(expected, found):
        raise ValueError(wrong)
    codec.vae.load_state_dict(tensors, assign=True)
    codec.requires_grad_(False)
    return codec


def _check_usual(settings: dict[str, Any], usual: dict[str, Any]) -> None:
    """``ValueError`` for a setting that changes what is computed, and that no shape shows."""
    for name, value in usual.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} is {settings[name]}")


def _blocks(tensors: dict[str, Tensor], coder: str) -> tuple[int, ...]:
    """Residual blocks between one convolution and the next, which are a level's."""
    counts: list[int] = []
    for layer in sorted({int(name.split(".")[2]) for name in tensors if name.startswith(f"{coder}.layers.")}):
        if f"{coder}.layers.{layer}.weight" in tensors:
            counts.append(0)
        else:
            counts[-1] += 1
    return tuple(counts[:-1])  # none after the last convolution
