"""Upscalers of the community, by spandrel: it knows the architectures they have, and tells them by their weights."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file

from ..errors import UserError, check
from .pickled import read_pickled
from .safetensors_file import is_pickled, read_metadata

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor, ModelDescriptor

PURPOSES = ("SR", "Restoration")  # the latter are denoisers and the like, of scale 1
KINDS = {"FaceSR": "faces", "Inpainting": "inpainting"}


def load_upscaler(path: Path) -> "ModelDescriptor | None":
    """The model in a file, on the CPU; None if spandrel knows none like it.

    Args:
        path: a safetensors file, or one that torch has pickled: of that, weights are loaded and nothing else.

    Raises:
        UserError: spandrel is not installed; the file is missing, damaged, of another kind or holds more than weights.
    """
    try:
        from spandrel import MAIN_REGISTRY, ModelLoader, UnsupportedModelError, canonicalize_state_dict
    except ImportError as error:
        raise UserError(
            f"{path} is no FlowMapSR checkpoint; other upscalers need spandrel ({error}); pip install "
            f"'flowmapsr[upscalers]'"
        ) from error
    if is_pickled(path):
        tensors = read_pickled(path)
    else:  # what something large is can be told by its shapes
        shapes = read_metadata(path, "an upscaler")[1]
        outline = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        known = canonicalize_state_dict(outline)
        if not any(support.architecture.detect(known) for support in MAIN_REGISTRY):
            return None
        tensors = load_file(path)
    try:
        return ModelLoader().load_from_state_dict(tensors)
    except UnsupportedModelError:
        return None
    except Exception as error:  # whatever the architecture that was recognised has tripped over
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} looks like an upscaler, but is damaged or incomplete ({reason})") from error


def check_upscaler(name: str | Path, model: "ModelDescriptor") -> "ImageModelDescriptor":
    """The model if it makes a picture of a picture alone, in its ``scale``; it is tried on a tiny one.

    Raises :class:`UserError`, with what ``name`` holds, if it is of another kind.
    """
    kind = f"{name} holds a {model.architecture.name}"
    check(model.purpose in PURPOSES, f"{kind} for {KINDS.get(model.purpose, model.purpose)}; give an upscaler")
    channels = (model.input_channels, model.output_channels)
    check(channels == (3, 3), f"{kind} from {channels[0]} to {channels[1]} channels; give one from RGB to RGB")
    upscaler = cast("ImageModelDescriptor", model)
    try:  # sizes are left to spandrel, which pads
        found = upscaler(torch.full((1, 3, 7, 9), 0.5, device=model.device, dtype=model.dtype)).shape
    except Exception as error:  # every architecture has errors of its own
        reason = str(error).partition("\n")[0]
        raise UserError(f"{kind} that cannot enlarge a picture of 9x7 pixels ({reason}); give another") from error
    check(found == (1, 3, 7 * model.scale, 9 * model.scale), f"{kind} that gives sizes of its own; give another")
    return upscaler
