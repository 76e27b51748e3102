"""OpenEXR files, by the library of that name: linear light, half or single floats, and any further channels.

Read are files of one part that has R, G and B, or Y alone, and perhaps A, by which OpenEXR has multiplied the colours.
"""

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError, check, one_line
from .light import display_of, light_of
from .picture import ExrFile, Picture
from .sixteen_bit import EXIF_IFD

log = logging.getLogger("flowmapsr")

SUFFIX = ".exr"
COLORS, GRAY, ALPHA = ("R", "G", "B"), ("Y",), "A"
PROCESSING_SOFTWARE = 0x000B  # EXIF's entry for the record of how a picture was made
RECORD = "flowmapsr"  # the attribute for it
LARGEST = float(np.finfo(np.float16).max)
FORMS = {"NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24"}  # of compression that loses nothing, or nothing more
OF_THE_FILE = ("channels", "type", "tiles", "version", "chunkCount", "preview", "name", "lineOrder")


def openexr() -> Any:
    """The module ``OpenEXR``; :class:`UserError` if it is not installed."""
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError(f"EXR files need OpenEXR ({error}); pip install OpenEXR, in ComfyUI with its Python") from error
    return OpenEXR


def read_exr(path: Path) -> Picture:
    """Read an EXR file; :class:`UserError` in one line if it is damaged, or of a kind that is not read.

    What is no number becomes black, and what is infinite the largest half float, which the log says.
    """
    part = _part(path)
    channels = {name: channel.pixels for name, channel in part.channels.items()}
    names = _colors(path, part)
    size = channels[names[0]].shape
    types = {name: pixels.dtype for name, pixels in channels.items()}
    light = torch.from_numpy(finite(np.stack([channels.pop(name) for name in names])[None].astype(np.float32), path))
    planes, alpha = {name: _plane(pixels) for name, pixels in channels.items()}, None
    if ALPHA in planes and planes[ALPHA].amax() > 0:  # else it is one of light alone, as fire
        alpha = planes.pop(ALPHA).nan_to_num(0, 1, 0)
        light, rest = uncovered(light, alpha)
        if rest.any():
            planes |= dict(zip(names, rest.split(1, dim=1), strict=True))
    color = display_of(light).expand(-1, 3, -1, -1).contiguous()
    attributes = {key: value for key, value in part.header.items() if key not in OF_THE_FILE}
    exr = ExrFile(attributes, types, (size[0], size[1]))
    return Picture(color, alpha, names == GRAY, bits=32, planes=planes, exr=exr)


def write_exr(picture: Picture, file: Path, path: Path) -> None:
    """Write a picture as EXR, in light, with what an EXR file that it came from said.

    Channels are stored as they were there, else as half floats, or single ones where another file had such. Of EXIF the
    record of how a picture was made becomes an attribute; other metadata is left out, with a warning in the log. Raises
    ``OSError`` where ``file``, which is to become ``path``, cannot be written.
    """
    module, exr = openexr(), picture.exr
    names = GRAY if picture.gray else COLORS
    light = light_of(picture.color[:, : len(names)])
    if picture.alpha is not None:
        light = light * picture.alpha
    planes = dict(picture.planes)
    for name, plane in zip(names, light.split(1, dim=1), strict=True):
        planes[name] = plane + planes[name] if name in planes else plane
    if picture.alpha is not None:
        planes[ALPHA] = picture.alpha
    usual = np.dtype(np.float32 if picture.bits == 32 and exr is None else np.float16)
    types = {} if exr is None else exr.types
    channels = {name: _stored(plane, types.get(name, usual)) for name, plane in planes.items()}
    header = {"compression": module.ZIP_COMPRESSION, "type": module.scanlineimage}
    if exr is not None:
        header |= _scaled(exr, (picture.color.shape[-2], picture.color.shape[-1]))
        if header["compression"].name.removesuffix("_COMPRESSION") not in FORMS:
            header["compression"] = module.ZIP_COMPRESSION
    metadata = dict(picture.metadata)
    entries = Image.Exif()
    entries.load(metadata.pop("exif", b""))
    if (record := entries.pop(PROCESSING_SOFTWARE, None)) is not None:
        header[RECORD] = record
    if any(tag != EXIF_IFD or entries.get_ifd(tag) for tag in entries):
        metadata["exif"] = entries
    if metadata:
        log.warning("%s: EXR has no place for %s, left out", path, ", ".join(metadata))
    try:
        with silent():
            module.File(header, channels).write(str(file))
    except RuntimeError as error:
        raise OSError(one_line(error)) from error


def exr_about(path: Path) -> tuple[tuple[int, int], str | None]:
    """Size (height, width) of an EXR file, and the record in it; errors as from :func:`read_exr`."""
    header = _part(path).header  # older versions of the library give no header without the pixels
    (left, top), (right, bottom) = header["dataWindow"]
    return (int(bottom - top + 1), int(right - left + 1)), header.get(RECORD)


def uncovered(light: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Light that was multiplied by alpha as it was before, and what of it alpha does not account for.

    That is light of what covers nothing, such as fire and glow: where alpha is 0, and where the light would be brighter
    by it than all that is in the picture. ``before * alpha + rest`` is the light again.
    """
    least, most = light.amin().clamp_max(0), light.amax().clamp_min(1)
    before = torch.where(alpha > 0, light / alpha.clamp_min(torch.finfo(alpha.dtype).tiny), 0).clamp(least, most)
    rest = light - before * alpha
    return before, torch.where(rest.abs() > 1e-6 * light.abs(), rest, 0)


def finite(samples: np.ndarray, path: Path) -> np.ndarray:
    """Samples of which each is a number; the log says how many were not."""
    if odd := samples.size - np.count_nonzero(np.isfinite(samples)):
        log.warning("%s: %d samples are infinite or no number; they become %g or 0", path, odd, LARGEST)
        return np.nan_to_num(samples, nan=0, posinf=LARGEST, neginf=-LARGEST)
    return samples


def _part(path: Path) -> Any:
    """The only part of a file, with its channels apart."""
    module = openexr()
    try:
        with silent():
            file = module.File(str(path), separate_channels=True)
            parts = file.parts
    except Exception as error:  # of several kinds, whatever a damaged file makes the library stumble over
        raise UserError(f"{path} is no EXR file, damaged or truncated; copy it again") from error
    check(len(parts) > 0, f"{path} is damaged or truncated; copy it again")
    check(len(parts) == 1, f"{path} holds {len(parts)} parts; save each as a file of its own")
    kind = parts[0].header.get("type")
    check(kind in (module.scanlineimage, module.tiledimage), f"{path} is a deep image; flatten it first")
    return parts[0]


def _colors(path: Path, part: Any) -> tuple[str, ...]:
    """The names of the channels that are seen."""
    names = set(part.channels)
    check(not names & {"RY", "BY"}, f"{path} has luminance and chroma; save it with channels R, G and B")
    thinned = [name for name, channel in part.channels.items() if (channel.xSampling, channel.ySampling) != (1, 1)]
    check(not thinned, f"{path}: channels {', '.join(thinned)} have fewer pixels; save it with all in full size")
    if names >= set(COLORS):
        return COLORS
    check("Y" in names, f"{path} has no channels R, G and B, or Y, but {', '.join(sorted(names)) or 'none'}")
    return GRAY


def _plane(pixels: np.ndarray) -> Tensor:
    kind = np.int64 if pixels.dtype == np.uint32 else np.float32
    return torch.from_numpy(pixels.astype(kind))[None, None]


def _stored(plane: Tensor, kind: np.dtype) -> np.ndarray:
    """A channel as it is stored; what half floats cannot hold becomes the largest that they can."""
    samples = plane[0, 0].cpu().numpy()
    if kind == np.float16:
        samples = np.where(np.isfinite(samples), samples.clip(-LARGEST, LARGEST), samples)
    return np.ascontiguousarray(samples.astype(kind))


def _scaled(exr: ExrFile, size: tuple[int, int]) -> dict[str, Any]:
    """Attributes for a picture of another size: both windows grow with it, and the data window is exactly that size."""
    attributes = dict(exr.attributes)
    factors = np.array(size[::-1]) / exr.size[::-1]  # windows have x first
    for key in ("dataWindow", "displayWindow"):
        first, last = (np.asarray(corner, np.float64) for corner in attributes[key])
        start = np.round(first * factors)
        side = size[::-1] if key == "dataWindow" else np.round((last - first + 1) * factors)
        attributes[key] = (start.astype(np.int32), (start + side - 1).astype(np.int32))
    return attributes


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A block whose library prints its errors, besides raising them, to the process's standard error and output."""
    with tempfile.TemporaryFile() as nowhere, contextlib.redirect_stdout(io.StringIO()):
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
