"""Models and LoRAs under ComfyUI's memory management."""

import json
import uuid
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy_api.latest import io
from torch import nn

from ...flowmapsr_core import Model, UserError, load_model
from ...flowmapsr_core.codecs import PixelCodec, TinyVAECodec, VAECodecConfig
from ...flowmapsr_core.files.checkpoint import BUILT_IN, check_format
from ...flowmapsr_core.files.lora import PREFIX, lora_names
from ...flowmapsr_core.files.safetensors_file import read_metadata
from ...flowmapsr_core.files.sources import SHIPPED
from ...flowmapsr_core.method.looks import find_look
from ...flowmapsr_core.networks import Network
from ...flowmapsr_core.upscaling.host import find_dtype
from .codec import ComfyCodec, tiny_vae, vae_of_checkpoint
from .host import ComfyHost
from .model_files import model_path
from .pixel_vae import NoVAE, PixelVAE

FP8 = "fp8_e4m3fn"
LARGE = 2**16  # numbers in a weight that is worth storing in 8 bits

ModelType = io.Custom("FLOWMAPSR_MODEL")


def load_patcher(name: str = BUILT_IN, dtype: str = "auto") -> comfy.model_patcher.ModelPatcher:
    """A model under ComfyUI's memory management: its layers cast, stream and take patches as ComfyUI's own do.

    What it patches is the flow map; the whole model is its attachment "model", what stands for its VAE "vae".
    """
    path = model_path(name)
    host = ComfyHost()
    codec = None if path in SHIPPED else comfy_codec(path)
    model = load_model(path, dtype=find_dtype("auto" if dtype == FP8 else dtype, host), vae=codec)
    use_comfy_layers(model.flow)
    if dtype == FP8:
        store_in_fp8(model.network)
    # looked up now: ComfyUI puts its patcher with dynamic VRAM in this place once it has started
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = kind(model.flow, host.device, comfy.model_management.unet_offload_device())
    patcher.set_attachments("model", model)
    patcher.set_attachments("vae", own_vae(model, name))
    return patcher


def own_vae(model: Model, name: str) -> comfy.sd.VAE:
    """What VAE nodes take for a model's VAE."""
    if isinstance(model.codec, PixelCodec):
        return PixelVAE(model.codec)
    if isinstance(model.codec, TinyVAECodec):
        return tiny_vae(model.codec) or NoVAE(
            f"the VAE of {name} has a shape that ComfyUI does not know; use FlowMapSR Upscale"
        )
    return model.codec.comfy_vae or NoVAE(
        f"{name} has no VAE of its own; connect the output of a Load VAE node here instead"
    )


def comfy_codec(path: str) -> ComfyCodec | None:
    """For a model of VAE latents, a codec with the VAE in the file, if there is one; None for any other model.

    Raises :class:`UserError` if the file is no checkpoint of a format that is read here.
    """
    metadata, shapes = read_metadata(Path(path))
    check_format(Path(path), metadata, shapes)
    try:
        section = json.loads(metadata.get("config", "{}")).get("codec", {})
        if section.pop("type", "") != "VAECodec":
            return None
        config = VAECodecConfig(**section)
    except (TypeError, ValueError, AttributeError):  # load_model says what is wrong with it
        return None
    return ComfyCodec(config, vae_of_checkpoint(path, config))


def use_comfy_layers(model: nn.Module) -> None:
    """Turn torch's layers into the ``comfy.ops`` classes derived from them, weights untouched."""
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn."):
            module.__class__ = getattr(comfy.ops.manual_cast, type(module).__name__, type(module))


def store_in_fp8(network: Network) -> None:
    """Store the large weights in 8 bits; ``comfy.ops`` layers cast them when they are used.

    Raises :class:`UserError` if the network does not support it.
    """
    if torch.float8_e4m3fn not in network.storage_dtypes:
        raise UserError(f"a {type(network).__name__} cannot be kept in {FP8}; set weight_dtype to auto")
    for module in network.modules():
        if hasattr(module, "comfy_cast_weights") and module.weight.numel() >= LARGE:
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn)


def with_lora(patcher: comfy.model_patcher.ModelPatcher, path: Path, scale: float) -> comfy.model_patcher.ModelPatcher:
    """The model with one more LoRA among its patches; weights are shared, and at scale 0 nothing is patched.

    Raises :class:`UserError` if the file is no LoRA or does not fit the model.
    """
    patched = patcher.clone()
    # ComfyUI's own list of layer names is for models that call their network "diffusion_model", as the file does
    names = lora_names(path, patcher.attachments["model"])
    keys = {PREFIX + name.removesuffix(".weight"): f"network.{name}" for name in names}
    if scale:
        patched.add_patches(comfy.lora.load_lora(comfy.utils.load_torch_file(str(path), safe_load=True), keys), scale)
    return patched


def at_look(patcher: comfy.model_patcher.ModelPatcher, look: str) -> comfy.model_patcher.ModelPatcher:
    """The model with its LoRAs as strong as a look has them; the same one if that changes nothing."""
    factor = find_look(look, patcher.attachments["model"].looks).lora_scale
    if factor == 1 or not patcher.patches:
        return patcher
    changed = patcher.clone()
    patches = patcher.patches.items() if factor else ()
    changed.patches = {key: [(strength * factor, *rest) for strength, *rest in several] for key, several in patches}
    # by it ComfyUI tells whether weights that are loaded are the same: those of one look are, run after run
    changed.patches_uuid = uuid.uuid5(patcher.patches_uuid, look)
    return changed
