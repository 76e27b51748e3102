"""PyAV, and what is to be said where it fails."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line

if TYPE_CHECKING:
    from av.container import InputContainer


def pyav() -> Any:
    """The module ``av``; :class:`UserError` if it is not installed."""
    os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 would print its settings for every part
    try:
        import av
    except ImportError as error:
        raise UserError(f"clips need PyAV ({error}); pip install 'flowmapsr[video]'") from error
    return av


@contextlib.contextmanager
def opened(path: Path) -> Iterator["InputContainer"]:
    """A clip to read; what FFmpeg says here or in the block becomes a :class:`UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    with reading(path), pyav().open(str(path), container_options={"fflags": "+genpts"}) as container:
        yield container


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What FFmpeg says in the block becomes a :class:`UserError` about the clip ``path``."""
    av = pyav()
    try:
        yield
    except av.FFmpegError as error:
        raise UserError(f"{path} is damaged, or no clip ({reason(error)}); copy it again") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong in the block with writing ``path`` becomes a :class:`UserError`."""
    av = pyav()
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path} cannot be written ({reason(error)})") from error


def reason(error: Exception) -> str:
    """An error of FFmpeg or of the system in a few words."""
    return getattr(error, "strerror", None) or one_line(error)
