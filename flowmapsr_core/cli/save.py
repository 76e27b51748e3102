"""Checkpoints that commands write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import UserError
from ..files.checkpoint import save_checkpoint
from ..model import Model


def check_name(path: Path) -> None:
    """:class:`UserError` unless a file's name is a checkpoint's."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a checkpoint is a .safetensors file; end the name so")


def save(model: Model, path: Path, dtype: torch.dtype) -> None:
    """Write a model, its weights in ``dtype``; :class:`UserError` if it cannot be written."""
    with saving(path):
        save_checkpoint(model, path, dtype)


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` of writing a file into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another") from error
