"""A folder of odd and damaged files: every one becomes a picture, or is named in one line."""

import io
import random

import numpy as np
import pytest
from flowmapsr.flowmapsr_core import save_checkpoint
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.images.sixteen_bit import write_png, write_tiff
from PIL import Image, features

MODES = {
    "png": ("1", "L", "LA", "P", "P+", "RGB", "RGBA", "I;16", "LA;16", "RGB;16", "RGBA;16"),
    "jpg": ("L", "RGB", "YCbCr", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F", "I", "RGB;16", "RGBA;16"),
    "gif": ("1", "L", "P", "P+"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
}
if features.check("avif"):
    MODES["avif"] = ("RGB", "RGBA")
DEEP = {"I", "F"}  # 32 bits in a TIFF, of which whole numbers are refused
COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits")
MAKE, ORIENTATION, EXIF_IFD, EXPOSURE = 0x010F, 0x0112, 0x8769, 0x829A


def encode(dice, suffix, mode, size):
    """An image file's bytes, with camera data where its format has a place for them."""
    depth = np.uint16 if mode.endswith(";16") else np.uint8
    samples = np.random.default_rng(dice.randrange(2**32)).integers(0, np.iinfo(depth).max, (*size[::-1], 4), depth)
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Camera", dice.randrange(1, 9)
    exif.get_ifd(EXIF_IFD)[EXPOSURE] = 0.01
    metadata = {"exif": exif.tobytes(), "dpi": (300, 300)}
    file = io.BytesIO()
    if mode in ("LA;16", "RGB;16", "RGBA;16"):
        write = write_png if suffix == "png" else write_tiff
        write(samples[..., 4 - len(mode[:-3]) :], file, metadata)
        return file.getvalue()
    if mode == "I;16":
        image = Image.fromarray(samples[..., 0])
    else:
        image = Image.fromarray(samples).convert("RGB" if mode == "LAB" else "L" if mode in DEEP else "RGBA")
        image = image.convert("RGB").convert(mode.rstrip("+")) if mode != "RGBA" else image
    options = metadata | ({"transparency": 3} if mode == "P+" else {})
    if suffix == "tif" and dice.random() < 0.5:
        options = {"compression": dice.choice(COMPRESSIONS)}  # Pillow writes no camera data then
    image.save(file, Image.registered_extensions()[f".{suffix}"], **options)
    return file.getvalue()


def spoil(dice, data):
    """A file's bytes with one thing wrong."""
    spoiled, kind = bytearray(data), dice.randrange(6)
    start = max(data.find(b"II*\0"), data.find(b"MM\0*"), 0)
    if kind == 0:
        return data[: dice.randrange(len(data))]
    if kind == 1:  # as a download that lost its end, and whose length was kept
        keep = dice.randrange(len(data))
        return data[:keep] + bytes(len(data) - keep)
    low, high, times = {
        2: (start, start + 130, 6),  # EXIF, or whatever stands at the beginning
        3: (0, 40, 2),  # headers
        4: (max(len(data) - 60, 0), len(data), 4),  # TIFF's directory, and ends
        5: (0, len(data), 8),
    }[kind]
    for _ in range(times):
        spoiled[min(dice.randrange(low, high), len(data) - 1)] = dice.randrange(256)
    return bytes(spoiled)


def odd_files(folder, count, seed=0):
    """Fill a folder with ``count`` image files, most of them damaged; returns those that must turn out well."""
    dice, sound = random.Random(seed), {}
    for number in range(count):
        suffix = dice.choice(list(MODES))
        mode = dice.choice(MODES[suffix])
        size = dice.choice([(1, 1), (1, 17), (19, 2), *[(dice.randrange(4, 24), dice.randrange(12, 24))] * 12])
        data = encode(dice, suffix, mode, size)
        path = folder / f"{number:05} {mode.replace(';', ' ')}.{dice.choice([suffix, suffix.upper()])}"
        if dice.random() < 0.75:
            data = spoil(dice, data)
        elif min(size) >= 4 and not (suffix == "tif" and mode == "I"):
            sound[path.name] = size
        path.write_bytes(data)
    return sound


@pytest.mark.parametrize("count", [120])
def test_each_becomes_a_picture_or_is_named_in_one_line(count, tmp_path, small_model, capsys):
    source, target, model = tmp_path / "in", tmp_path / "out", tmp_path / "model.safetensors"
    source.mkdir()
    sound = odd_files(source, count)
    save_checkpoint(small_model, model)
    options = ("--scale", "2", "--model", str(model), "--look", "faithful", "--device", "cpu", "--quiet")
    assert main(["upscale", str(source), "--output", str(target), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if not line.startswith("flowmapsr: ") or "too odd" in line]
    made = {path.name: path for path in target.iterdir()}
    for path in source.iterdir():
        outputs = [name for name in (path.name, f"{path.name}.png") if made.pop(name, None)]
        errors = [line for line in lines if line.startswith("flowmapsr: error: ") and path.name in line]
        assert len(outputs) + len(errors) == 1, (path.name, outputs, errors)
        if outputs:
            with Image.open(target / outputs[0]) as image:
                image.load()
                assert path.name not in sound or sorted(image.size) == sorted(2 * side for side in sound[path.name])
        assert path.name not in sound or outputs, errors
    assert not made  # no partial either
