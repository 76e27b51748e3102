"""Upscalers of the community, by spandrel: it knows the architectures they have, and tells them by their weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from ..errors import UserError
from .pickled import read_pickled
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
    tensors = read_pickled(path) if is_pickled(path) else _loaded(path)
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
