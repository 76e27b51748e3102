"""Photographs of a folder tree: image files, and images inside ``.tar`` shards (webdataset)."""

import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ContainerIO, Image
from torch import Tensor

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.images.picture_files import READABLE, opened, orientation_of, read_rgb

UNREADABLE = (UserError, OSError)
DECODED_BYTES = 2**30  # of decoded photographs that each process keeps
TURNED = (5, 6, 7, 8)  # values of EXIF's orientation that swap width and height


@dataclass(frozen=True)
class Photo:
    """An image file, or the ``length`` bytes from ``start`` of a shard; ``name`` says which in messages."""

    name: str
    path: Path
    start: int = 0
    length: int | None = None

    def size(self) -> tuple[int, int]:
        """(width, height), upright. Raises one of UNREADABLE if it is no image."""
        with self.path.open("rb") as file:
            part: IO[bytes] = file if self.length is None else ContainerIO.ContainerIO(file, self.start, self.length)
            with opened(part, self.name) as image:
                width, height = image.size
                # of a PNG without it up front, Pillow would decode everything to look for EXIF at the end
                known = image.format != "PNG" or "exif" in image.info
                return (height, width) if known and orientation_of(image) in TURNED else (width, height)

    def decode(self) -> Image.Image:
        """Upright 8-bit RGB. Raises one of UNREADABLE if the image is damaged."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            whole = BytesIO(file.read(self.length))  # of its own: libtiff looks for its data from a file's beginning
        return Image.fromarray(read_rgb(whole, self.name))


_decoded: dict[Photo, Image.Image] = {}


def load_rgb(photo: Photo) -> Image.Image:
    """Decode upright 8-bit RGB; the last ones are kept. Raises one of UNREADABLE if the image is damaged."""
    image = _decoded.pop(photo, None)
    if image is None:
        image = photo.decode()
    _decoded[photo] = image  # at the end, as the last one used
    while len(_decoded) > 1 and sum(3 * kept.width * kept.height for kept in _decoded.values()) > DECODED_BYTES:
        del _decoded[next(iter(_decoded))]
    return image


def find_photos(folder: Path, smallest: int = 1) -> tuple[dict[Photo, tuple[int, int]], int]:
    """Photographs with sides of at least ``smallest`` pixels.

    Returns:
        Their upright (width, height), in the order of their names, and how many files were no readable images.

    Raises:
        UserError: the folder is missing or holds no such photograph.
    """
    folder = folder.expanduser()  # shells leave the ~ of key=~/photos alone
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; set it to a folder of photographs")
    sizes, unreadable = {}, 0
    for path in sorted(folder.rglob("*")):
        for photo in _shard(path) if path.suffix.lower() == ".tar" else _file(path):
            try:
                sizes[photo] = photo.size()
            except UNREADABLE:
                unreadable += 1
    large = {photo: size for photo, size in sizes.items() if min(size) >= smallest}
    if not large:
        raise UserError(f"{folder} holds no readable image of at least {smallest}x{smallest} pixels")
    return large, unreadable


def _file(path: Path) -> list[Photo]:
    return [Photo(str(path), path)] if path.suffix.lower() in READABLE and path.is_file() else []


def _shard(path: Path) -> list[Photo]:
    """Images of a tar file, with their places in it, so that any of them can be read without the others."""
    try:
        with tarfile.open(path, "r:") as shard:
            members = [member for member in shard if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path} is not an uncompressed tar file ({error}); unpack it or take it away") from error
    return [
        Photo(f"{path}/{member.name}", path, member.offset_data, member.size)
        for member in members
        if Path(member.name).suffix.lower() in READABLE
    ]


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
