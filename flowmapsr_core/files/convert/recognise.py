"""What a user's file or folder is: by its content, never by its name."""

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import UserError
from ..diffusers_folder import read_unet
from ..pickled import read_pickled
from ..safetensors_file import is_checkpoint, is_pickled, read_metadata
from ..upscaler_file import load_upscaler
from . import ctmsr, lbm, sdxl
from .source import Source
from .upscaler import from_upscaler

WANTED = "an LBM or SDXL model in safetensors, or an upscaler"
SDXL_LAYER = "add_embedding.linear_1.weight"
# first match wins
KINDS = (
    (r"(.*\.)?(lora_(up|down|A|B)|lora\.(up|down))\..*", "a LoRA"),
    (r"class_embedding\.linear_1\.weight", "FlowMapSR's own UNet, or one like it"),
    (r"(model\.diffusion_model\.)?(double_blocks|joint_blocks|transformer_blocks)\..*", "a diffusion transformer"),
    (r"model\.diffusion_model\..*|down_blocks\..*attn2\..*", "a model of Stable Diffusion 1 or 2, or one like it"),
    (r"(first_stage_model\.|vae\.)?decoder\..*", "a VAE"),
    (r"(conditioner\.|cond_stage_model\.|text_model\.|text_projection\.).*", "a text encoder"),
)


def read_source(path: Path) -> Source:
    """The weights of an LBM or SDXL model, of CTMSR's network or of an upscaler.

    Args:
        path: an LBM folder or its safetensors file; an SDXL UNet in diffusers' layout, in ``unet/`` of the folder or in
            the folder itself; an SDXL checkpoint in one safetensors file; CTMSR's pickled file; or an upscaler in one
            or the other kind of file.

    Raises:
        UserError: it is something else, and what; or it is damaged.
    """
    if not path.is_dir():
        return _read_file(path)
    for folder in (path / "unet", path):
        if (folder / "config.json").is_file():
            settings, tensors = read_unet(folder)
            if SDXL_LAYER not in tensors:
                raise UserError(f"{folder} is {kind_of({}, tensors)}; give {WANTED}")
            return sdxl.from_unet(path, tensors, settings)
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "no .safetensors file"
        raise UserError(f"{path} holds {names}; give the folder of one model, or the file itself")
    return _read_file(files[0])


def kind_of(metadata: dict[str, str], names: Iterable[str]) -> str:
    """What tensors of these names are, in words."""
    names = sorted(names)
    return known_kind(metadata, names) or f"neither: it holds {len(names)} tensors ({', '.join(names[:2])}, ...)"


def known_kind(metadata: dict[str, str], names: Iterable[str]) -> str | None:
    """What tensors of these names are, if it is something that has been met; upscalers are not among that."""
    if is_checkpoint(metadata):
        return "a FlowMapSR checkpoint already"
    kinds = (kind for pattern, kind in KINDS if any(re.fullmatch(pattern, name) for name in names))
    return next(kinds, None)


def _read_file(path: Path) -> Source:
    if is_pickled(path):
        saved = read_pickled(path)
        if ctmsr.weights_in(saved):
            return ctmsr.read_ctmsr(path, saved)
        return _read_upscaler(path, "a pickled file of something else than an upscaler")
    metadata, shapes = read_metadata(path, WANTED)
    names = list(shapes)
    if any(name.startswith(lbm.PREFIX) for name in names):
        return lbm.read_lbm(path, names)
    if sdxl.LABEL in names:
        return sdxl.read_single_file(path, names)
    if SDXL_LAYER in names:
        raise UserError(f"{path} is one file of SDXL's UNet; give its folder, with config.json")
    kind = kind_of(metadata, names)
    if known_kind(metadata, names):
        raise UserError(f"{path} is {kind}; give {WANTED}")
    return _read_upscaler(path, kind)


def _read_upscaler(path: Path, otherwise: str) -> Source:
    upscaler = load_upscaler(path)
    if upscaler is None:
        raise UserError(f"{path} is {otherwise}; give {WANTED}")
    return from_upscaler(path, upscaler)
