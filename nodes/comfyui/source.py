"""What a file says of a photograph beside its pixels: an IMAGE has no place for it, so it has an output of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...flowmapsr_core.images.picture_files import Picture

SourceType = io.Custom("FLOWMAPSR_SOURCE")


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
