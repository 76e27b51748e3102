"""Upscalers of the community, by spandrel: it knows the architectures they have, and tells them by their weights."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from ..errors import UserError
from .safetensors_file import is_pickled, read_metadata

if TYPE_CHECKING:
    from spandrel import ModelDescriptor


def load_upscaler(path: Path) -> "ModelDescriptor | None":
    """The model in a file, on the CPU; None if spandrel knows none like it.

    Args:
        path: a safetensors file, or one that torch has pickled: of that, weights are loaded and nothing else.

    Raises:
        UserError: spandrel is not installed; the file is missing, damaged, of another kind or holds more than weights.
    """
    try:
        from spandrel import ModelLoader, UnsupportedModelError
    except ImportError as error:
        raise UserError(
            f"whether {path} is an upscaler is for spandrel to say ({error}); pip install 'flowmapsr[upscalers]'"
        ) from error
    tensors = _unpickled(path) if is_pickled(path) else _loaded(path)
    try:
        return ModelLoader().load_from_state_dict(tensors)
    except UnsupportedModelError:
        return None
    except Exception as error:  # whatever the architecture that was recognised has tripped over
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} looks like an upscaler, but is damaged or incomplete ({reason})") from error


def _loaded(path: Path) -> dict[str, Any]:
    read_metadata(path, "an upscaler")  # which says what is wrong with a file
    return load_file(path)


def _unpickled(path: Path) -> dict[str, Any]:
    if torch.__version__ < (2, 6):  # pyright: ignore[reportOperatorIssue]
        raise UserError(f"{path} is a pickled file, safe to load from torch 2.6 on; update it (CVE-2025-32434)")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than weights, which might be code and is never loaded; give a .safetensors version"
        ) from error
    except Exception as error:  # a zip archive and a pickle can be damaged in many ways
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is truncated or damaged ({reason}); download or copy it again") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds no weights by name, but a {type(tensors).__name__}")
    return tensors
