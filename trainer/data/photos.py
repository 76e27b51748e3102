"""Photographs of a folder tree: image files, and images inside ``.tar`` shards (webdataset)."""

import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import ContainerIO, Image

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.images.picture_files import READABLE, opened, orientation_of, read_rgb

UNREADABLE = (UserError, OSError)
DECODED_BYTES = 2**30  # of decoded photographs that the processes of a machine keep together
TURNED = (5, 6, 7, 8)  # values of EXIF's orientation that swap width and height

Sizes = dict["Photo", tuple[int, int]]


@dataclass(frozen=True, slots=True)  # there may be a million of them, and each worker gets its own
class Photo:
    """An image file, or the ``length`` bytes from ``start`` of the shard at ``path``, where it is ``member``."""

    path: str
    member: str = ""
    start: int = 0
    length: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path}/{self.member}" if self.member else self.path

    def size(self) -> tuple[int, int]:
        """(width, height), upright. Raises one of UNREADABLE if it is no image."""
        with open(self.path, "rb") as file:
            part: IO[bytes] = file if self.length is None else ContainerIO.ContainerIO(file, self.start, self.length)
            with opened(part, self.name) as image:
                width, height = image.size
                # of a PNG without it up front, Pillow would decode everything to look for EXIF at the end
                known = image.format != "PNG" or "exif" in image.info
                return (height, width) if known and orientation_of(image) in TURNED else (width, height)

    def decode(self) -> Image.Image:
        """Upright 8-bit RGB. Raises one of UNREADABLE if the image is damaged."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            whole = BytesIO(file.read(self.length))  # of its own: libtiff looks for its data from a file's beginning
        return Image.fromarray(read_rgb(whole, self.name))


class Decoded:
    """Decodes photographs and keeps the last ones, of ``budget`` bytes together, but always the very last."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.images: dict[Photo, Image.Image] = {}

    def load(self, photo: Photo) -> Image.Image:
        """Upright 8-bit RGB. Raises one of UNREADABLE if the image is damaged."""
        image = self.images.pop(photo, None) or photo.decode()
        self.images[photo] = image  # at the end, as the last one used
        while len(self.images) > 1 and sum(3 * kept.width * kept.height for kept in self.images.values()) > self.budget:
            del self.images[next(iter(self.images))]
        return image


def find_photos(folder: Path, smallest: int = 1, processes: PartialState | None = None) -> tuple[Sizes, int]:
    """Photographs with sides of at least ``smallest`` pixels.

    Args:
        folder: is searched to its depth.
        smallest: least width and height.
        processes: that share the work; all of them must call, and get the same.

    Returns:
        Their upright (width, height), in the order of their names, and how many files were no readable images.

    Raises:
        UserError: the folder is missing or holds no such photograph, or a shard is none.
    """
    folder = folder.expanduser()  # shells leave the ~ of key=~/photos alone
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; set it to a folder of photographs")
    first, step = (processes.process_index, processes.num_processes) if processes else (0, 1)
    found = [(number, *_look(path)) for number, path in list(enumerate(sorted(folder.rglob("*"))))[first::step]]
    found = sorted(gather_object(found) if processes else found, key=lambda part: part[0])
    large = {photo: size for _, sizes, _, _ in found for photo, size in sizes.items() if min(size) >= smallest}
    if wrong := next((error for *_, error in found if error), ""):
        raise UserError(wrong)
    if not large:
        raise UserError(f"{folder} holds no readable image of at least {smallest}x{smallest} pixels")
    return large, sum(unreadable for _, _, unreadable, _ in found)


def _look(path: Path) -> tuple[Sizes, int, str]:
    """The photographs in a file, how many of its images are not readable, and what is wrong if it is no shard."""
    sizes, unreadable = {}, 0
    try:
        photos = _shard(path) if path.suffix.lower() == ".tar" else _file(path)
    except UserError as error:
        return {}, 0, str(error)
    for photo in photos:
        try:
            sizes[photo] = photo.size()
        except UNREADABLE:
            unreadable += 1
    return sizes, unreadable, ""


def _file(path: Path) -> list[Photo]:
    return [Photo(str(path))] if path.suffix.lower() in READABLE and path.is_file() else []


def _shard(path: Path) -> list[Photo]:
    """Images of a tar file, with their places in it, so that any of them can be read without the others."""
    try:
        with tarfile.open(path, "r:") as shard:
            members = [member for member in shard if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path} is not an uncompressed tar file ({error}); unpack it or take it away") from error
    return [
        Photo(str(path), member.name, member.offset_data, member.size)
        for member in members
        if Path(member.name).suffix.lower() in READABLE
    ]
