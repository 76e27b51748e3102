"""UPSCALE_MODELs: the community's in our chain, and ours where nodes take any."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...flowmapsr_core import Model, UserError, upscale
from ...flowmapsr_core.files.upscaler_file import check_upscaler
from ...flowmapsr_core.files.upscaler_model import model_of_upscaler
from ...flowmapsr_core.method.looks import DEFAULT_LOOK
from ...flowmapsr_core.upscaling.pipeline import output_size, painted_size
from .host import ComfyHost
from .loading import at_look, load_patcher
from .managed import ManagedModel

NAME = "the upscale model"
FLOATS = 3 * 384  # a pixel of LR and a step of scale: what ComfyUI's own node reckons with
LARGEST = 512**2  # pixels of LR at a time
FACTOR = 4  # at which ours paint


@contextmanager
def community_model(upscaler: Any, image: Tensor) -> Iterator[tuple[Model, torch.device]]:
    """An UPSCALE_MODEL of the community as a model, and where it computes; there its weights are for as long.

    ``image`` (B, 3, H, W) is what is upscaled. Raises :class:`UserError` if it is no upscaler that spandrel has loaded.
    """
    if not hasattr(upscaler, "architecture"):
        raise UserError(f"{NAME} is a {type(upscaler).__name__}; connect the output of Load Upscale Model")
    memory = 4 * FLOATS * max(upscaler.scale, 1) * min(image.shape[-2] * image.shape[-1], LARGEST)
    with on_device(upscaler, memory) as device:
        check_upscaler(NAME, upscaler)
        yield model_of_upscaler(upscaler, f"{upscaler.architecture.name} x{upscaler.scale}"), device


@contextmanager
def on_device(upscaler: Any, memory: int) -> Iterator[torch.device]:
    """As ComfyUI's *Upscale Image (using Model)* goes about it, with so many bytes free beside the weights."""
    if hasattr(upscaler, "patcher"):  # newer versions manage the weights
        management.load_models_gpu([upscaler.patcher], memory_required=memory, force_full_load=True)
        yield upscaler.patcher.load_device
        return
    device = management.get_torch_device()
    management.free_memory(management.module_size(upscaler.model) + memory, device)
    try:
        upscaler.to(device)
        yield device
    finally:
        upscaler.to("cpu")


class OwnUpscaler(nn.Module):
    """A model of ours as what nodes take for an UPSCALE_MODEL: it paints x4, with its default look.

    ComfyUI brings the weights when a picture is painted, so moving or converting it does nothing.

    Attributes:
        patcher: of the model, for those who bring the weights themselves.
        scale: output side over input side.
    """

    def __init__(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        super().__init__()
        self.flow = patcher.model  # for those who ask how large it is
        self.patcher, self.scale = patcher, FACTOR
        self.input_channels = self.output_channels = 3

    @property
    def model(self) -> nn.Module:
        """The module that paints."""
        return self

    @property
    def device(self) -> torch.device:
        """Where pictures are painted."""
        return self.patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        """Of pictures; the network's own is the patcher's matter."""
        return torch.float32

    def _apply(self, *_: Any, **__: Any) -> "OwnUpscaler":
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, 4 H, 4 W) of (B, 3, H, W), both in [0, 1], of the image's dtype and on its device."""
        patcher = at_look(self.patcher, DEFAULT_LOOK)
        size = painted_size(patcher.attachments["model"], image, output_size(image, FACTOR, None))
        managed, host = ManagedModel(patcher, size), ComfyHost(patcher.load_device)
        return upscale(managed, image, FACTOR, host=host).to(image.dtype)


@contextmanager
def ready(
    model, upscale_model, look: str, image: Tensor, size: tuple[int, int], wrap: str = ""
) -> Iterator[tuple[Model, torch.device]]:
    """What upscales images (B, 3, H, W) to ``size``, its weights loaded, and where it does so.

    Raises :class:`UserError` if both kinds of model are connected, or one is of no use.
    """
    if model is not None and upscale_model is not None:
        raise UserError("both model and upscale_model are connected; disconnect one of them")
    if isinstance(upscale_model, OwnUpscaler):
        model, upscale_model = upscale_model.patcher, None
    if upscale_model is None:
        patcher = at_look(model or load_patcher(), look)
        painted = painted_size(patcher.attachments["model"], image, size, wrap)
        yield ManagedModel(patcher, painted), patcher.load_device
    else:
        with community_model(upscale_model, image) as community:
            yield community
