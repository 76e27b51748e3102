"""TIFF files of floating-point samples in colour, which Pillow does not know, by the library tifffile."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ..errors import UserError, check
from .sixteen_bit import ICC_TAG, XMP_TAG

SUFFIXES = {".tif", ".tiff"}
MARKS = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
INCHES, CENTIMETRES = 2, 3  # units of resolution
ASSOCIATED = 1  # of extra samples: alpha by which the colours were multiplied


def is_float_tiff(path: Path) -> bool:
    """Whether a file, which is there, is a TIFF that Pillow does not know."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    with path.open("rb") as file:
        if file.read(4) not in MARKS:
            return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
        return False
    except UnidentifiedImageError:
        return True
    except Exception:  # Pillow's readers raise whatever a damaged file makes them stumble over
        return False


def read_float_tiff(path: Path) -> tuple[np.ndarray, bool]:
    """Samples (H, W, 1 to 4) float32 of a TIFF, and whether its colours were multiplied by alpha.

    Raises :class:`UserError` in one line if it is damaged, or of another kind, or tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"{path} needs tifffile ({error}); pip install tifffile, in ComfyUI with its Python") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of odd tags would not tell a user anything
    try:
        with tifffile.TiffFile(path) as file:
            pages = len(file.pages)
            page = file.pages.first
            extra, apart, samples = page.extrasamples, page.axes.startswith("S"), page.asarray()
        check(samples.size > 0, f"{path} is damaged; copy it again")
    except UserError:
        raise
    except Exception as error:  # of many kinds, whatever a damaged file makes the library stumble over
        what = " ".join(str(error).strip("'\"").split())
        if "imagecodecs" in what:
            raise UserError(f"{path}: {what}; pip install imagecodecs") from error
        raise UserError(f"{path} is damaged or truncated ({what}); copy it again") from error
    check(pages == 1, f"{path} holds {pages} pages or frames; save each as a file of its own")
    check(
        samples.dtype.kind == "f",
        f"{path} is a TIFF of a kind that is not read; save it as RGB, of 8 or 16 bits or floats",
    )
    samples = np.moveaxis(samples, 0, -1) if apart else samples.reshape(*samples.shape[:2], -1)
    check(samples.ndim == 3 and samples.shape[2] <= 4, f"{path} has more than 4 channels; save it as RGB or RGBA")
    return samples.astype(np.float32), samples.shape[2] in (2, 4) and ASSOCIATED in tuple(extra)


@contextlib.contextmanager
def tags(path: Path) -> Iterator[Image.Exif]:
    """The entries of a TIFF as EXIF, in which the directories of EXIF proper are found within the block.

    There are none where they are damaged, or the file is a BigTIFF.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = Image.Exif()
        try:
            exif.load_from_fp(file)
            dict(exif)
        except Exception:  # of many kinds, as each entry is decoded by itself
            exif = Image.Exif()
        yield exif


def info_of(exif: Image.Exif) -> dict[str, Any]:
    """What Pillow's ``save`` takes besides EXIF: ICC profile, XMP and resolution."""
    info = {key: exif[tag] for key, tag in (("icc_profile", ICC_TAG), ("xmp", XMP_TAG)) if exif.get(tag)}
    along, down = (exif.get(tag) for tag in (TiffImagePlugin.X_RESOLUTION, TiffImagePlugin.Y_RESOLUTION))
    unit = exif.get(TiffImagePlugin.RESOLUTION_UNIT)
    if along and down and unit in (INCHES, CENTIMETRES):
        factor = 2.54 if unit == CENTIMETRES else 1
        info["dpi"] = (float(along) * factor, float(down) * factor)
    return info
