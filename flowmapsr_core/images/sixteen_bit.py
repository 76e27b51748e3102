"""PNG and TIFF where Pillow falls short: 16 bits per sample in colour, and camera data in a compressed TIFF.

Pillow decodes 16-bit colour but keeps 8 bits of it. Its raw modes ``;16B`` and ``;16L`` name a byte order and keep the
high byte of each sample. Told the opposite order, they keep the low byte: two decodings give all 16 bits.
"""

import struct
import sys
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin

PNG_COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: gray, gray + alpha, RGB, RGBA
IDAT_BYTES = 2**24  # a chunk of a PNG has less than 2 GiB, an image may have many
EXIF_IFD, GPS_IFD, XMP_TAG, ICC_TAG = 0x8769, 0x8825, 700, 34675


def read_sixteen_bit(source: Path | IO[bytes], frame: int = 0) -> np.ndarray | None:
    """Samples (H, W, C) uint16 of a page of a 16-bit PNG or TIFF, None for any other image; 12 bits become 16."""
    with Image.open(source) as image:
        image.seek(frame)
        raw_mode = _raw_mode(image)
        if image.mode.startswith("I;16") or raw_mode == "I;16B":
            whole = np.asarray(image).astype(np.uint16)[:, :, None]
            return whole << 4 | whole >> 8 if raw_mode == "I;12" else whole
        if raw_mode == "LA;16B":
            # four bytes a pixel, like 8-bit RGBA: gray high and low, alpha high and low
            _decode_as(image, "RGBA")
            return np.asarray(image).view(">u2").astype(np.uint16)
    base, _, order = raw_mode.partition(";16")
    if base not in ("RGB", "RGBA") or order not in ("B", "L", "N"):
        return None
    halves = {}
    for tried in "BL":
        with Image.open(source) as image:
            image.seek(frame)
            _decode_as(image, f"{base};16{tried}")
            halves[tried] = np.asarray(image).astype(np.uint16)
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    high, low = (halves["L"], halves["B"]) if little else (halves["B"], halves["L"])
    return high << 8 | low


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    if not tiles or image.format not in ("PNG", "TIFF"):
        return ""
    arguments = tiles[0][3]
    return arguments if isinstance(arguments, str) else arguments[0]


def _decode_as(image: Any, raw_mode: str) -> None:
    def swapped(arguments: Any) -> Any:
        return raw_mode if isinstance(arguments, str) else (raw_mode, *arguments[1:])

    image.tile = [tile._replace(args=swapped(tile.args)) for tile in image.tile]


def write_png(samples: np.ndarray, file: IO[bytes], metadata: dict[str, Any]) -> None:
    """Write samples (H, W, 1 to 4) uint16 as PNG (RFC 2083); ``metadata`` has the keywords of Pillow's ``save``.

    Every row has filter 2 (up), which suits photographs well enough and vectorises.
    """
    height, width, channels = samples.shape
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOR_TYPE[channels], 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", header)
    if "icc_profile" in metadata:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata["icc_profile"]))
    if "dpi" in metadata:
        per_metre = [round(float(dpi) / 0.0254) for dpi in metadata["dpi"]]
        chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if "exif" in metadata:
        chunk(b"eXIf", metadata["exif"].removeprefix(b"Exif\0\0"))
    if "xmp" in metadata:
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata["xmp"])
    for key, text in metadata.get("text", {}).items():
        chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1", "replace"))
    data = zlib.compress(filtered.data, 4)
    for start in range(0, len(data), IDAT_BYTES):
        chunk(b"IDAT", data[start : start + IDAT_BYTES])
    chunk(b"IEND", b"")


def write_tiff(samples: np.ndarray, file: IO[bytes], metadata: dict[str, Any]) -> None:
    """Write samples (H, W, 1 to 4), uint8, uint16 or float32, as TIFF 6.0, one deflated strip; ``metadata`` as above.

    Gray with alpha becomes RGBA, because Pillow reads no 16-bit TIFF of that kind.
    """
    if samples.shape[2] == 2:
        samples = samples[:, :, [0, 0, 0, 1]]
    height, width, channels = samples.shape
    data = zlib.compress(samples.astype(samples.dtype.newbyteorder("<")).tobytes(), 4)
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    if "exif" in metadata:
        exif = Image.Exif()
        exif.load(metadata["exif"])
        for tag, value in exif.items():
            ifd[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if values := exif.get_ifd(tag):
                ifd[tag] = dict(values)
    ifd[TiffImagePlugin.IMAGEWIDTH], ifd[TiffImagePlugin.IMAGELENGTH] = width, height
    ifd[TiffImagePlugin.BITSPERSAMPLE] = (8 * samples.itemsize,) * channels
    ifd[TiffImagePlugin.COMPRESSION] = 8  # Adobe deflate
    ifd[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2 if channels >= 3 else 1
    ifd[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    ifd[TiffImagePlugin.ROWSPERSTRIP] = height
    ifd[TiffImagePlugin.STRIPOFFSETS], ifd[TiffImagePlugin.STRIPBYTECOUNTS] = 0, len(data)
    ifd[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
    if samples.dtype.kind == "f":
        ifd[TiffImagePlugin.SAMPLEFORMAT] = (3,) * channels  # IEEE floating point
    if channels == 4:
        ifd[TiffImagePlugin.EXTRASAMPLES] = 2  # unassociated alpha
    if "dpi" in metadata:
        ifd[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
        ifd[TiffImagePlugin.X_RESOLUTION], ifd[TiffImagePlugin.Y_RESOLUTION] = metadata["dpi"]
    for key, tag in (("icc_profile", ICC_TAG), ("xmp", XMP_TAG)):
        if key in metadata:
            ifd.tagtype[tag] = TiffImagePlugin.TiffTags.UNDEFINED
            ifd[tag] = metadata[key]
    ifd.save(file)
    file.write(data)
