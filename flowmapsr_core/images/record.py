"""How a picture was made, kept in the picture itself.

JSON in EXIF's ProcessingSoftware: all formats that are written here hold it, and it is for programs to fill in, so what
a photographer has written stays.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from .exr import PROCESSING_SOFTWARE, exr_about
from .exr import SUFFIX as EXR
from .float_tiff import is_float_tiff, read_float_tiff, tags
from .picture_files import opened

log = logging.getLogger("flowmapsr")

PROGRAM = "FlowMapSR "  # ahead of the JSON: other programs show the entry as a name
LONGEST = 65533  # bytes of EXIF that a JPEG holds
ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF's orientations of which the sides are swapped

Record = dict[str, Any]  # what JSON can hold


def in_pixels(shape: Sequence[int]) -> str:
    """The size of an image (..., H, W) as a record has it."""
    return f"{shape[-1]}x{shape[-2]}"


def with_record(metadata: dict[str, Any], record: Record) -> dict[str, Any]:
    """Metadata of a :class:`.picture_files.Picture` with a record in its EXIF, in place of an earlier one.

    It is left out where it would make EXIF that fits into a JPEG too long for one.
    """
    before, entries = metadata.get("exif", b""), Image.Exif()
    entries.load(before)
    entries[PROCESSING_SOFTWARE] = PROGRAM + json.dumps(record)
    exif = entries.tobytes()
    if len(before) <= LONGEST < len(exif):
        log.warning("the EXIF is too long for a note of how the picture was made; that is left out")
        return metadata
    return {**metadata, "exif": exif}


def read_about(path: Path) -> tuple[tuple[int, int], Record | None]:
    """Size (height, width) of an image file, upright, and the record in it; None if FlowMapSR has written none.

    Errors as from :func:`.picture_files.read_picture`.
    """
    if path.suffix.lower() == EXR:
        (height, width), text = exr_about(path)
    elif is_float_tiff(path):
        height, width = read_float_tiff(path)[0].shape[:2]
        with tags(path) as entries:
            text = entries.get(PROCESSING_SOFTWARE)
    else:
        with opened(path, str(path)) as image:
            exif = image.getexif()
            height, width, text = image.height, image.width, exif.get(PROCESSING_SOFTWARE)
        if exif.get(ExifTags.Base.Orientation, 1) in ON_ITS_SIDE:
            height, width = width, height
    return (height, width), _parsed(text)


def read_record(path: Path) -> Record | None:
    """The record in an image file, see :func:`read_about`."""
    return read_about(path)[1]


def _parsed(text: object) -> Record | None:
    if not isinstance(text, str) or not text.startswith(PROGRAM):
        return None
    try:
        record = json.loads(text.removeprefix(PROGRAM))
    except ValueError:  # another program has cut it
        return None
    return record if isinstance(record, dict) else None
