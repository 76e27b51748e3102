"""Checkpoints that commands write."""

from argparse import Namespace
from pathlib import Path

from ..errors import UserError
from ..files.checkpoint import save_checkpoint
from ..model import Model
from ..upscaling.host import DTYPES


def check_name(path: Path) -> None:
    """:class:`UserError` unless a file's name is a checkpoint's."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a checkpoint is a .safetensors file; end the name so")


def save(model: Model, options: Namespace) -> None:
    """Write ``options.output`` in the precision ``options.dtype``; :class:`UserError` if it cannot be written."""
    try:
        save_checkpoint(model, options.output, DTYPES[options.dtype])
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error.strerror or error}; choose another") from error
