"""What the nodes need of ComfyUI: its memory management, its folders, its progress bar."""

from collections.abc import Callable
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor, nn

from ..flowmapsr_core import FlowMap, load_model
from ..flowmapsr_core.checkpoint import BUILT_IN
from ..flowmapsr_core.device import find_dtype
from ..flowmapsr_core.lora import PREFIX, load_lora
from ..flowmapsr_core.upscale import Progress

FOLDER = "flowmapsr"
PREVIEW_SIDE = 512

ModelType = io.Custom("FLOWMAPSR_MODEL")

if FOLDER not in folder_paths.folder_names_and_paths:
    folder_paths.folder_names_and_paths[FOLDER] = ([str(Path(folder_paths.models_dir) / FOLDER)], {".safetensors"})


def model_names() -> list[str]:
    """The built-in model, then the checkpoints in ComfyUI's ``models/flowmapsr``."""
    return [BUILT_IN, *folder_paths.get_filename_list(FOLDER)]


def load_patcher(name: str = BUILT_IN, dtype: str = "auto") -> comfy.model_patcher.ModelPatcher:
    """A model under ComfyUI's memory management: its layers cast, stream and take patches as ComfyUI's own do."""
    path = name if name == BUILT_IN else folder_paths.get_full_path_or_raise(FOLDER, name)
    device = comfy.model_management.get_torch_device()
    model = load_model(path, dtype=find_dtype(dtype, device))
    use_comfy_layers(model)
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def use_comfy_layers(model: nn.Module) -> None:
    """Turn torch's layers into the ``comfy.ops`` classes derived from them, weights untouched."""
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn."):
            module.__class__ = getattr(comfy.ops.manual_cast, type(module).__name__, type(module))


def with_lora(patcher: comfy.model_patcher.ModelPatcher, path: Path, scale: float) -> comfy.model_patcher.ModelPatcher:
    """The model with one more LoRA among its patches; weights are shared, and at scale 0 nothing is patched.

    Raises :class:`UserError` if the file is no LoRA or does not fit the model.
    """
    patched = patcher.clone()
    # ComfyUI's own list of layer names is for models that call their network "diffusion_model", as the file does
    keys = {PREFIX + name.removesuffix(".weight"): f"network.{name}" for name in load_lora(path, patcher.model)}
    if scale:
        patched.add_patches(comfy.lora.load_lora(comfy.utils.load_torch_file(str(path), safe_load=True), keys), scale)
    return patched


def loaded(patcher: comfy.model_patcher.ModelPatcher) -> FlowMap:
    """The model, its weights where ComfyUI wants them."""
    comfy.model_management.load_models_gpu([patcher])
    return patcher.model


def progress() -> Progress:
    """Progress bar with a preview; raises ComfyUI's interrupt when the user cancels."""
    bar = None

    def update(done: int, total: int, preview: Callable[[], Tensor]) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        pixels = (preview()[0].permute(1, 2, 0).float().cpu() * 255).round().to(torch.uint8)
        bar.update_absolute(done, total, ("JPEG", Image.fromarray(np.asarray(pixels)), PREVIEW_SIDE))

    return update
