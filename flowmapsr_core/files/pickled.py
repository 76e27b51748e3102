"""Files that torch has pickled: of those, weights are loaded and nothing else, and only by commands that say so."""

import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError


def read_pickled(path: Path) -> dict[str, Any]:
    """What is in a pickled file, on the CPU; :class:`UserError` if that is more than weights by name, or damaged."""
    if torch.__version__ < (2, 6):  # pyright: ignore[reportOperatorIssue]
        raise UserError(f"{path} is a pickled file, safe to load from torch 2.6 on; update it (CVE-2025-32434)")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is pickled, and holds more than weights, which might be code and is never loaded; give a "
            f".safetensors version"
        ) from error
    except Exception as error:  # a zip archive and a pickle can be damaged in many ways
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is pickled, and truncated or damaged ({reason}); download or copy it again") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds no weights by name, but a {type(tensors).__name__}")
    return tensors
