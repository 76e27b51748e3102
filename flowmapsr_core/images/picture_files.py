"""Image files in and out, with everything about them that upscaling should keep.

Pillow does the work, but for 16 bits and TIFF, see :mod:`.sixteen_bit`, and for light in floating point, see
:mod:`.exr` and :mod:`.float_tiff`.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..atomic import replacing
from ..errors import UserError, one_line
from .exr import COLORS, GRAY, finite, openexr, read_exr, uncovered, write_exr
from .exr import SUFFIX as EXR
from .float_tiff import info_of, is_float_tiff, read_float_tiff, tags
from .light import display_of, light_of
from .metadata import ORIENTATION, exif_of, metadata_of, save_arguments
from .picture import Picture
from .sixteen_bit import read_sixteen_bit, write_png, write_tiff

log = logging.getLogger("flowmapsr")

READABLE = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}  # by Pillow
PICTURES = READABLE | {EXR}  # all that read_picture takes
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
WRITABLE[EXR] = "EXR"
DEEPEST = {"PNG": 16, "TIFF": 32, "EXR": 32}  # bits per sample, of others 8; 32 are light in floating point
LONGEST_SIDE = {"WEBP": 16383, "JPEG": 65500}
TIFF_BYTES = 2**32 - 2**24  # its offsets have 32 bits; some room is left for metadata
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},
    "JPEG": {"subsampling": 0},
    "WEBP": {"method": 4},
}
QUALITY = 95
DEEP = "{} has 32 bits per sample; save it with 8 or 16"
LACK_OF_MEMORY = ("out of memory", "decoder error -9", "can't allocate memory")  # as Pillow, libtiff and torch say it


def read_picture(path: Path) -> Picture:
    """Read an image; :class:`UserError` in one line if it is missing, empty, damaged, no image, or more than one."""
    if (picture := _of_light(path)) is not None:
        return picture
    with _existing(path) as image:
        if (count := count_frames(image)) > 1:
            raise UserError(f"{path} holds {count} pages or frames; save each as a file of its own")
        return _frame(image, path, 0)


def read_frames(path: Path) -> list[Picture]:
    """Read all pages or frames of an image; :class:`UserError` as from :func:`read_picture`."""
    if (picture := _of_light(path)) is not None:
        return [picture]
    with _existing(path) as image:
        return [_frame(image, path, index) for index in range(count_frames(image))]


def count_frames(image: Image.Image) -> int:
    """Pages or frames of an image file. What cameras put behind a JPEG (previews, gain maps) is none."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


@contextlib.contextmanager
def _existing(path: Path) -> Iterator[Image.Image]:
    _check_there(path)
    with opened(path, str(path)) as image:
        yield image


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; copy it again")


def _of_light(path: Path) -> Picture | None:
    """An image of one of the kinds that Pillow does not know."""
    _check_there(path)
    if path.suffix.lower() == EXR:
        return read_exr(path)
    if not is_float_tiff(path):
        return None
    samples, multiplied = read_float_tiff(path)
    with tags(path) as exif:
        metadata = info_of(exif) | exif_of(lambda: exif, path)
        samples = upright(samples, exif.get(ORIENTATION, 1))
    return _picture(finite(samples, path), metadata, multiplied)


def _frame(image: Image.Image, path: Path, index: int) -> Picture:
    image.seek(index)
    samples = _upright_samples(image, path, str(path), index)
    metadata = metadata_of(image, path)  # afterwards, as some of it stands at the end of a file
    return _picture(finite(samples, path) if samples.dtype.kind == "f" else samples, metadata)


def _picture(samples: np.ndarray, metadata: dict[str, Any], multiplied: bool = False) -> Picture:
    """A picture of samples (H, W, 1 to 4): uint8, uint16, or float32 in light, perhaps multiplied by alpha."""
    bits = 8 * samples.itemsize
    whole = 1 if bits == 32 else 2**bits - 1
    planes = torch.from_numpy(samples.astype(np.float32) / whole).permute(2, 0, 1)[None].contiguous()
    gray, has_alpha = planes.shape[1] < 3, planes.shape[1] in (2, 4)
    alpha = planes[:, -1:] if has_alpha else None
    color = planes[:, :1].expand(-1, 3, -1, -1) if gray else planes[:, :3]
    if alpha is not None and multiplied:
        color, _ = uncovered(color, alpha)
    return Picture((display_of(color) if bits == 32 else color).contiguous(), alpha, gray, bits, metadata)


def read_rgb(source: IO[bytes], name: str) -> np.ndarray:
    """Samples (H, W, 3) uint8, upright, of the first page of an image; ``name`` is for messages.

    Of 16 bits the upper ones are kept, of transparent images the colour. Raises :class:`UserError` if it is damaged.
    """
    with opened(source, name) as image:
        samples = _upright_samples(image, source, name, 0)
    if samples.dtype == np.float32:
        raise UserError(DEEP.format(name))
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return samples[:, :, [0, 0, 0]] if samples.shape[2] < 3 else samples[:, :, :3]


def _upright_samples(image: Image.Image, source: Path | IO[bytes], name: str, index: int) -> np.ndarray:
    """Samples (H, W, 1 to 4), uint8, uint16 or float32, of page ``index``, at which ``image`` is."""
    image.load()
    orientation = orientation_of(image)
    if image.mode == "I" and image.format == "TIFF":
        raise UserError(DEEP.format(name))
    if image.mode == "F":
        return upright(np.asarray(image)[:, :, None], orientation)
    samples = read_sixteen_bit(source, index)
    return upright(_eight_bit(image) if samples is None else samples, orientation)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) if it says none or is damaged."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # entries are decoded one by one, each with errors of its own
        return 1


@contextlib.contextmanager
def opened(source: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    """An image file, not yet decoded; what Pillow raises here or in the block becomes a :class:`UserError`.

    ``MemoryError`` stays one, and becomes of all that means it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd tags would not tell a user anything
            with Image.open(source) as image:
                yield image
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image that can be read; give a PNG, JPEG, WebP or TIFF file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large an image: {error}") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        reason = one_line(error)
        if any(words in reason.lower() for words in LACK_OF_MEMORY):
            raise MemoryError(reason) from error
        raise UserError(f"{name} is damaged or truncated ({reason}); copy it again") from error


def write_picture(picture: Picture, path: Path, quality: int = QUALITY) -> None:
    """Write an image in the format of its extension, under a temporary name first.

    16 bits are kept in PNG and TIFF, light in EXR and TIFF (others get it as a screen shows it), alpha in all but JPEG
    (there it is laid over white), gray stays gray. Metadata that the format cannot hold is left out, with a warning in
    the log, and so is what is brighter than white. ``quality`` is that of JPEG and WebP, 1 to 100.
    Raises :class:`UserError` if the extension is unknown, the format cannot hold so large a picture, or the file cannot
    be written.
    """
    file_format = check_writable(path)
    check_fits(picture, (picture.color.shape[-2], picture.color.shape[-1]), path)
    try:
        with replacing(path) as partial:
            if file_format == "EXR":
                write_exr(picture, partial, path)
            else:
                _write_samples(picture, partial, path, file_format, quality)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another output") from error


def _write_samples(picture: Picture, partial: Path, path: Path, file_format: str, quality: int) -> None:
    """Write what is to become ``path`` as ``partial``."""
    color = picture.color[:, :1] if picture.gray else picture.color
    alpha, metadata = picture.alpha, picture.metadata
    if others := [name for name in picture.planes if name not in (*COLORS, *GRAY)]:
        log.warning("%s: %s has no place for channels %s, left out", path, file_format, ", ".join(others))
    bits = min(picture.bits, DEEPEST.get(file_format, 8))
    if picture.bits == 32 and bits < 32:
        metadata = {key: value for key, value in metadata.items() if key != "icc_profile"}  # it describes light
        if color.amax() > 1:
            log.warning("%s: %s holds nothing brighter than white, as .exr and .tif would", path, file_format)
    if alpha is not None and file_format == "JPEG":
        color, alpha = color * alpha + 1 - alpha, None
    if bits == 32:
        color = light_of(color)
    samples = _stored(color if alpha is None else torch.cat([color, alpha], dim=1), bits)
    metadata = _holdable(metadata, samples[:1, :1], path, file_format)
    with partial.open("wb") as file:
        _encode(samples, file, file_format, metadata, quality)


def check_writable(path: Path) -> str:
    """Pillow's name of the format that ``path`` asks for; :class:`UserError` if it cannot be written there."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path}: cannot write '{path.suffix}'; end the name in {', '.join(WRITABLE)}")
    if path.suffix.lower() == EXR:
        openexr()  # said before there is anything to write
    check_place(path)
    return WRITABLE[path.suffix.lower()]


def check_place(path: Path) -> None:
    """:class:`UserError` if no file can be written at ``path``, whatever its format."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: {folder} is a file, not a folder; choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: no permission to write in {folder}; choose another output")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")


def check_fits(picture: Picture, size: tuple[int, int], path: Path) -> None:
    """:class:`UserError` if the format of ``path`` cannot hold ``picture`` at ``size`` = (height, width)."""
    file_format = WRITABLE[path.suffix.lower()]
    longest = LONGEST_SIDE.get(file_format)
    if longest and max(size) > longest:
        raise UserError(f"{path}: {file_format} holds at most {longest} pixels a side; write PNG or TIFF")
    channels = (1 if picture.gray else 3) if picture.alpha is None else 4
    if file_format == "TIFF" and size[0] * size[1] * channels * picture.bits // 8 > TIFF_BYTES:
        raise UserError(f"{path}: TIFF holds at most 4 GiB; write PNG")


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8) to samples (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Samples (H, W, 1 to 4) of any mode Pillow knows."""
    transparent = "transparency" in image.info or image.mode in ("LA", "RGBA", "PA", "La", "RGBa")
    gray = image.mode in ("1", "L", "LA", "La")
    mode = ("LA" if gray else "RGBA") if transparent else ("L" if gray else "RGB")
    samples = np.asarray(image.convert(mode))
    return samples if samples.ndim == 3 else samples[:, :, None]


def _holdable(metadata: dict[str, Any], pixel: np.ndarray, path: Path, file_format: str) -> dict[str, Any]:
    """The entries of ``metadata`` that can be written with a single ``pixel`` (1, 1, C) in this format."""
    kept = {}
    for key, value in metadata.items():
        try:
            _encode(pixel, io.BytesIO(), file_format, {key: value})
        except Exception as error:  # too long, of a wrong type, or a number out of range, as each writer says it
            log.warning("%s: %s does not fit into %s (%s) and is left out", path, key, file_format, one_line(error))
        else:
            kept[key] = value
    return kept


def _encode(
    samples: np.ndarray, file: IO[bytes], file_format: str, metadata: dict[str, Any], quality: int = QUALITY
) -> None:
    """Write samples (H, W, C), uint8, uint16 or float32, as a whole file."""
    if file_format == "TIFF":
        write_tiff(samples, file, metadata)
    elif samples.dtype == np.uint16:
        write_png(samples, file, metadata)
    else:
        image = Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
        options = {"quality": quality, **OPTIONS[file_format], **save_arguments(metadata, file_format)}
        image.save(file, file_format, **options)


def _stored(samples: Tensor, bits: int) -> np.ndarray:
    """(1, C, H, W) to (H, W, C): float32, or whole numbers of [0, 1], a channel at a time to spare memory."""
    if bits == 32:
        return np.ascontiguousarray(samples[0].permute(1, 2, 0).cpu().numpy())
    kind = np.uint16 if bits == 16 else np.uint8
    planes = [(plane.clamp(0, 1) * (2**bits - 1)).round().cpu().numpy().astype(kind) for plane in samples[0]]
    return np.stack(planes, axis=2)
