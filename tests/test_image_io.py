import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images import sixteen_bit
from flowmapsr.flowmapsr_core.images.picture_files import (
    Picture,
    check_fits,
    read_frames,
    read_picture,
    upright,
    write_picture,
)
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKE, XMP, EXIF_IFD, EXPOSURE, PIXEL_WIDTH = 0x0112, 0x010F, 700, 0x8769, 0x829A, 0xA002


def samples(channels, bits, seed=0):
    return (
        np.random.default_rng(seed).integers(0, 2**bits, (9, 14, channels)).astype(np.uint16 if bits > 8 else np.uint8)
    )


def tensor(array, bits):
    return torch.from_numpy(array.astype(np.float32) / (2**bits - 1)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8), (".tiff", 16), (".webp", 8)])
def test_lossless_formats_give_back_every_sample(tmp_path, channels, suffix, bits, monkeypatch):
    from flowmapsr.flowmapsr_core.images import picture_files as image_io

    monkeypatch.setitem(image_io.OPTIONS, "WEBP", {"lossless": True, "exact": True})
    content = tensor(samples(channels, bits), bits)
    color = content[:, :1].expand(-1, 3, -1, -1) if channels < 3 else content[:, :3]
    alpha = content[:, -1:] if channels in (2, 4) else None
    path = tmp_path / f"image{suffix}"
    write_picture(Picture(color, alpha, channels < 3, bits), path)
    again = read_picture(path)
    assert again.bits == bits
    assert torch.allclose(again.color, color, atol=1e-6)
    assert (again.alpha is None) == (alpha is None)
    assert alpha is None or torch.allclose(again.alpha, alpha, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_sixteen_bit_files_of_other_programs(tmp_path):
    gray = samples(1, 16)
    Image.fromarray(gray[:, :, 0]).save(tmp_path / "gray.png")
    Image.fromarray(gray[:, :, 0]).save(tmp_path / "gray.tif")
    for name in ("gray.png", "gray.tif"):
        picture = read_picture(tmp_path / name)
        assert (picture.bits, picture.gray) == (16, True)
        assert torch.allclose(picture.color[:, :1], tensor(gray, 16), atol=1e-6)
    for order, mark in ((">", b"MM\0*"), ("<", b"II*\0")):  # an uncompressed RGB TIFF, written by hand
        color = samples(3, 16)
        entries = [(256, 3, 1, 14), (257, 3, 1, 9), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 206),
                   (277, 3, 1, 3), (278, 3, 1, 9), (279, 4, 1, color.nbytes)]  # fmt: skip
        ifd = struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in entries:
            packed = (
                struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
            )
            ifd += struct.pack(f"{order}HHI", tag, kind, count) + packed
        data = mark + struct.pack(f"{order}I", 8) + ifd + struct.pack(f"{order}I", 0)
        data = data.ljust(200, b"\0") + struct.pack(f"{order}3H", 16, 16, 16) + color.astype(f"{order}u2").tobytes()
        (tmp_path / "color.tif").write_bytes(data)
        picture = read_picture(tmp_path / "color.tif")
        assert picture.bits == 16
        assert torch.allclose(picture.color, tensor(color, 16), atol=1e-6)


def test_modes(tmp_path):
    rgb = Image.fromarray(samples(3, 8))
    rgb.quantize(16).save(tmp_path / "palette.png")
    palette = read_picture(tmp_path / "palette.png")
    assert palette.color.shape == (1, 3, 9, 14)
    assert palette.alpha is None
    transparent = rgb.quantize(16)
    transparent.save(tmp_path / "transparent.png", transparency=3)
    assert read_picture(tmp_path / "transparent.png").alpha is not None
    rgb.convert("1").save(tmp_path / "bits.png")
    assert read_picture(tmp_path / "bits.png").gray
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", icc_profile=ICC)
    cmyk = read_picture(tmp_path / "cmyk.jpg")
    assert cmyk.color.shape == (1, 3, 9, 14)
    assert "icc_profile" not in cmyk.metadata


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path, orientation):
    image = Image.fromarray(samples(3, 8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "turned.png", exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))
    picture = read_picture(tmp_path / "turned.png")
    assert torch.equal(picture.color, tensor(np.asarray(expected), 8))
    assert np.array_equal(upright(np.asarray(image), orientation), np.asarray(expected))
    write_picture(picture, tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_metadata_is_kept(tmp_path, suffix, bits):
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif.get_ifd(EXIF_IFD).update({EXPOSURE: 0.01, PIXEL_WIDTH: 14})
    exif[XMP] = xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    Image.fromarray(samples(3, 8)).save(tmp_path / "in.tif", exif=exif.tobytes(), icc_profile=ICC, dpi=(300, 300))
    picture = read_picture(tmp_path / "in.tif")
    picture.bits = bits
    write_picture(picture, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as out:
        out.load()
        assert out.info["icc_profile"] == ICC
        assert out.getexif()[MAKE] == "Camera"
        assert float(out.getexif().get_ifd(EXIF_IFD)[EXPOSURE]) == pytest.approx(0.01)
        assert PIXEL_WIDTH not in out.getexif().get_ifd(EXIF_IFD)
        assert out.info["xmp"] == xmp
        if suffix != ".webp":
            assert round(out.info["dpi"][0]) == 300
        if suffix != ".tif":
            assert 273 not in out.getexif()  # strip offsets of the source


def test_alpha_is_laid_over_white_in_jpeg(tmp_path):
    color, alpha = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    write_picture(Picture(color, alpha), tmp_path / "out.jpg")
    assert read_picture(tmp_path / "out.jpg").color.min() > 0.99


def test_files_that_are_no_image(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(samples(3, 8)).resize((200, 200)).save(good)
    cases = {"missing.png": (None, "no such file"), "empty.png": (b"", "empty"), "text.png": (b"hello", "not an image"),
             "cut.png": (good.read_bytes()[:500], "damaged or truncated")}  # fmt: skip
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_picture(path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError("decoder error -9"),
        ValueError("Pixel allocation failed: Out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_file_is_not_damaged_where_memory_runs_out(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    Image.fromarray(samples(3, 8)).save(tmp_path / "in.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        read_picture(tmp_path / "in.png")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    picture = Picture(torch.rand(1, 3, 8, 8))
    path = tmp_path / "out.png"
    write_picture(picture, path)
    before = path.read_bytes()

    def fail(self, file, *arguments, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="No space left"):
        write_picture(picture, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_damaged_exif_is_left_out_or_a_user_error(tmp_path, suffix):
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif.get_ifd(EXIF_IFD).update({EXPOSURE: 0.01, PIXEL_WIDTH: 14})
    whole = io.BytesIO()
    Image.fromarray(samples(3, 8)).save(whole, Image.registered_extensions()[suffix], exif=exif.tobytes())
    dice = random.Random(0)
    for _ in range(150):
        spoiled = bytearray(whole.getvalue())
        start = max(spoiled.find(b"II*\0"), spoiled.find(b"MM\0*"))
        for _ in range(6):
            spoiled[min(start + dice.randrange(130), len(spoiled) - 1)] = dice.randrange(256)
        (tmp_path / f"in{suffix}").write_bytes(spoiled)
        try:
            picture = read_picture(tmp_path / f"in{suffix}")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - whether it is raised at all is up to the bytes
        else:
            write_picture(picture, tmp_path / "out.png")
            write_picture(picture, tmp_path / "out.tif")


def test_exif_that_cannot_be_written_again_is_left_out(tmp_path, caplog, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Camera"
    Image.fromarray(samples(3, 8)).save(tmp_path / "in.png", exif=exif.tobytes())

    def fail(self, offset=8):
        raise TypeError

    monkeypatch.setattr(Image.Exif, "tobytes", fail)
    caplog.set_level("WARNING", "flowmapsr")
    picture = read_picture(tmp_path / "in.png")
    assert picture.color.shape == (1, 3, 14, 9)  # upright all the same
    assert "exif" not in picture.metadata
    assert "in.png: its EXIF is damaged (TypeError) and is left out" in caplog.text


def test_metadata_that_a_format_cannot_hold_is_left_out(tmp_path, caplog):
    exif = Image.Exif()
    exif[MAKE] = "Camera" * 20000
    picture = Picture(torch.rand(1, 3, 9, 14), metadata={"exif": exif.tobytes(), "dpi": (300, 300), "icc_profile": ICC})
    caplog.set_level("WARNING", "flowmapsr")
    write_picture(picture, tmp_path / "out.jpg")
    assert "out.jpg: exif does not fit into JPEG" in caplog.text
    assert read_picture(tmp_path / "out.jpg").metadata == {"icc_profile": ICC, "dpi": (300, 300)}
    write_picture(picture, tmp_path / "out.png")
    assert len(read_picture(tmp_path / "out.png").metadata["exif"]) > 100000
    picture.bits, picture.metadata = 16, {"dpi": (float("nan"), 1e300)}
    write_picture(picture, tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png").metadata == {}


def test_an_image_of_32_bits_is_called_that(tmp_path):
    Image.new("I", (9, 14)).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match=r"deep\.tif has 32 bits per sample; save it with 8 or 16$"):
        read_picture(tmp_path / "deep.tif")


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_several_pages_are_refused_where_one_is_meant(tmp_path, suffix):
    path = tmp_path / f"pages{suffix}"
    pages = [Image.fromarray(samples(3, 8, seed)) for seed in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=f"pages{suffix} holds 3 pages or frames"):
        read_picture(path)
    frames = read_frames(path)
    assert len(frames) == 3
    if suffix in (".tif", ".png"):
        for frame, page in zip(frames, pages, strict=True):
            assert torch.equal(frame.color, tensor(np.asarray(page), 8))


def test_pages_of_16_bits_are_told_apart(tmp_path):
    pages = [samples(1, 16, seed)[:, :, 0] for seed in range(2)]
    Image.fromarray(pages[0]).save(tmp_path / "in.tif", save_all=True, append_images=[Image.fromarray(pages[1])])
    frames = read_frames(tmp_path / "in.tif")
    for frame, page in zip(frames, pages, strict=True):
        assert torch.equal(frame.color[:, :1], tensor(page[:, :, None], 16))


def test_a_photograph_with_a_preview_behind_it_is_one_picture(tmp_path):
    image = Image.fromarray(samples(3, 8))
    image.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[image.resize((4, 4))])
    assert read_picture(tmp_path / "phone.jpg").color.shape == (1, 3, 9, 14)
    assert len(read_frames(tmp_path / "phone.jpg")) == 1


def test_white_of_12_bits_is_white(tmp_path):
    values = np.array([[0, 1, 2048, 4095]], np.uint16)
    a, b, c, d = (int(value) for value in values[0])
    packed = (a << 36 | b << 24 | c << 12 | d).to_bytes(6, "big")
    entries = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 6)]
    ifd = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    data = b"II*\0" + struct.pack("<I", 14) + packed + struct.pack("<H", len(entries)) + ifd + bytes(4)
    (tmp_path / "scan.tif").write_bytes(data)
    picture = read_picture(tmp_path / "scan.tif")
    assert picture.bits == 16
    assert np.allclose(picture.color[0, 0].numpy(), values / 4095, atol=1 / 65535)
    assert picture.color.max() == 1


def test_photoshops_layers_and_thumbnail_stay_behind_but_not_the_caption(tmp_path):
    resources, layers, caption = 34377, 37724, 33723
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((resources, bytes(20000)), (layers, bytes(300000)), (caption, b"\x1c\x02\x78\0\x04Pier")):
        ifd.tagtype[tag], ifd[tag] = TiffImagePlugin.TiffTags.UNDEFINED, value
    ifd[MAKE] = "Camera"
    Image.fromarray(samples(3, 8)).save(tmp_path / "in.tif", tiffinfo=ifd)
    picture = read_picture(tmp_path / "in.tif")
    assert len(picture.metadata["exif"]) < 1000
    for suffix in (".tif", ".png", ".jpg", ".webp"):
        write_picture(picture, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as out:
            exif = out.getexif()
            assert exif[MAKE] == "Camera"
            assert not {resources, layers} & exif.keys()
            assert exif[caption] == b"\x1c\x02\x78\0\x04Pier"


@pytest.mark.parametrize(
    ("name", "size", "bits", "fits"),
    [
        ("out.webp", (100, 16383), 8, True),
        ("out.webp", (16384, 100), 8, False),
        ("out.jpg", (65500, 100), 8, True),
        ("out.jpg", (100, 65501), 8, False),
        ("out.png", (100, 65501), 16, True),
        ("out.tif", (32768, 32768), 8, True),
        ("out.tif", (32768, 32768), 16, False),
        ("out.png", (32768, 32768), 16, True),
    ],
)
def test_limits_of_formats_are_known_from_the_size(name, size, bits, fits):
    picture = Picture(torch.rand(1, 3, 9, 14), bits=bits)
    if fits:
        check_fits(picture, size, Path(name))
    else:
        with pytest.raises(UserError, match=r"holds at most .*; write PNG"):
            check_fits(picture, size, Path(name))


def test_a_png_of_many_chunks_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sixteen_bit, "IDAT_BYTES", 100)
    content = tensor(samples(3, 16), 16)
    write_picture(Picture(content, bits=16), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().count(b"IDAT") > 5
    assert torch.equal(read_picture(tmp_path / "out.png").color, content)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".tif"])
def test_texts_are_where_programs_look_for_them(tmp_path, caplog, suffix, bits):
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    path, texts = tmp_path / f"out{suffix}", {"prompt": '{"1": "a:b"}', "workflow": "[]"}
    metadata = {"exif": exif.tobytes(), "xmp": b"<x/>", "text": texts}
    caplog.set_level("WARNING", "flowmapsr")
    write_picture(Picture(torch.rand(1, 3, 9, 14), bits=bits, metadata=metadata), path)
    assert not caplog.text
    with Image.open(path) as image:
        found = dict(image.getexif())
        assert found.pop(MAKE) == "Camera"
        if suffix == ".png":
            assert {key: image.info[key] for key in texts} == texts
        assert set(found.values()) >= ({f"{key}:{text}" for key, text in texts.items()} if suffix == ".webp" else set())
    again = read_picture(path).metadata  # they are about that file, and not about what is made of it
    exif.load(again["exif"])
    assert exif.keys() == {MAKE, EXIF_IFD}
    assert "text" not in again


def test_quality_is_that_of_jpeg_and_webp(tmp_path):
    picture = Picture(torch.rand(1, 3, 90, 140))
    for suffix in (".png", ".webp", ".jpg", ".tif"):
        sizes = []
        for quality in (50, 95):
            path = tmp_path / f"{quality}{suffix}"
            write_picture(picture, path, quality)
            sizes.append(path.stat().st_size)
        assert sizes[0] == sizes[1] if suffix in (".png", ".tif") else sizes[0] < 0.8 * sizes[1]
