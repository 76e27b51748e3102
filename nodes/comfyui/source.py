"""What a file says of a photograph beside its pixels: an IMAGE has no place for it, so it has an output of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...flowmapsr_core import UserError
from ...flowmapsr_core.images.picture_files import Picture, read_frames

SourceType = io.Custom("FLOWMAPSR_SOURCE")
EDITED = "clipspace-"  # how names of files begin that ComfyUI's mask editor writes


@dataclass(frozen=True)
class Source:
    """A photograph without its pixels.

    Attributes:
        name: of its file, without folders.
        size: height and width in pixels.
        gray, metadata: as :class:`Picture` has them.
    """

    name: str
    size: tuple[int, int]
    gray: bool
    metadata: dict[str, Any]

    @classmethod
    def of(cls, picture: Picture, name: str) -> "Source":
        """That of a picture that was read from a file of ComfyUI's input folder; ``name`` is the one in its list."""
        return cls(file_name(name), (picture.color.shape[-2], picture.color.shape[-1]), picture.gray, picture.metadata)


def file_name(name: str) -> str:
    """A file's own name by the one in a list of ComfyUI, which may say the folder: "sub/a.png [output]"."""
    return Path(folder_paths.annotated_filepath(name)[0]).name


def read_source(name: str | None) -> Source | None:
    """That of a file by its name in a list of ComfyUI; None if it is none, gone, or written by the mask editor.

    What the editor has written is a copy of a photograph, without its name and metadata.
    """
    if name is None or is_painted(name):
        return None
    try:
        return Source.of(read_frames(Path(folder_paths.get_annotated_filepath(name)))[0], name)
    except UserError:
        return None


def is_painted(name: str) -> bool:
    """Whether ComfyUI's mask editor has written a file: the alpha of its pictures is what was painted."""
    return file_name(name).startswith(EDITED)
