"""What image files say beside their pixels: EXIF, ICC profile, XMP, resolution, and texts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import one_line
from .sixteen_bit import EXIF_IFD, ICC_TAG, XMP_TAG

log = logging.getLogger("flowmapsr")

ORIENTATION = 0x0112
# EXIF that describes how this file stores its pixels (orientation included: they are upright from here on)
LAYOUT_TAGS = {ORIENTATION, 254, 255, *range(256, 264), 266, 273, 277, 278, 279, 284, 317, *range(320, 326), 338, 339}
LAYOUT_TAGS |= {XMP_TAG, ICC_TAG}  # kept as metadata of their own
LAYOUT_TAGS |= {34377, 37724}  # Photoshop's resources and layers: a thumbnail and the pixels of the file that was
TEXT_TAGS = range(65000, 65100)  # of those that TIFF leaves to everybody: texts of the file that was
LAYOUT_TAGS |= {*TEXT_TAGS}
PIXEL_SIZE_TAGS = (0xA002, 0xA003)


def metadata_of(image: Image.Image, path: Path) -> dict[str, Any]:
    """What :attr:`.picture.Picture.metadata` is of an opened image; what is damaged is left out, which the log says."""
    metadata: dict[str, Any] = {}
    for key in ("icc_profile", "dpi", "xmp"):
        if image.info.get(key):
            metadata[key] = image.info[key]
    if image.mode == "CMYK":
        metadata.pop("icc_profile", None)  # it describes inks, and the output is RGB
    return metadata | exif_of(image.getexif, path)


def exif_of(read: Callable[[], Image.Exif], path: Path) -> dict[str, Any]:
    """EXIF without what describes the file that was, as metadata."""
    try:
        exif = read()
        for tag in LAYOUT_TAGS & exif.keys():
            del exif[tag]
        for tag in PIXEL_SIZE_TAGS:
            exif.get_ifd(EXIF_IFD).pop(tag, None)
        if len(exif):
            return {"exif": exif.tobytes()}
    except Exception as error:  # entries are decoded one by one, each with errors of its own
        log.warning("%s: its EXIF is damaged (%s) and is left out", path, one_line(error))
    return {}


def save_arguments(metadata: dict[str, Any], file_format: str) -> dict[str, Any]:
    """Metadata as the format's ``save`` takes it; PNG has no keyword for XMP, and no format has one for texts."""
    arguments = {key: value for key, value in metadata.items() if key != "text"}
    texts = metadata.get("text", {})
    if file_format == "PNG":
        arguments["pnginfo"] = PngInfo()
        for key, text in texts.items():
            arguments["pnginfo"].add_text(key, text)
        if "xmp" in metadata:
            arguments["pnginfo"].add_itxt("XML:com.adobe.xmp", arguments.pop("xmp").decode("utf-8", "replace"))
    elif file_format == "WEBP" and texts:
        entries = Image.Exif()
        entries.load(metadata.get("exif", b""))
        entries.update({tag: f"{key}:{text}" for tag, (key, text) in zip(TEXT_TAGS, texts.items(), strict=False)})
        arguments["exif"] = entries.tobytes()
    return arguments
