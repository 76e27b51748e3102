"""EXR and floating-point TIFF files, read, written and upscaled."""

import json

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.light import light_of
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_frames, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.planes import resize_plane
from PIL import Image, ImageCms

OpenEXR = pytest.importorskip("OpenEXR")
tifffile = pytest.importorskip("tifffile")

ACES = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
PATCHES = (1, 10, 100, 1000)


def corners(left, top, right, bottom):
    return np.array([left, top], np.int32), np.array([right, bottom], np.int32)


def write(path, channels, **header):
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
    OpenEXR.File(header, {name: np.ascontiguousarray(pixels) for name, pixels in channels.items()}).write(str(path))
    return path


def load(path):
    file = OpenEXR.File(str(path), separate_channels=True)
    return file.header(), {name: channel.pixels for name, channel in file.channels().items()}


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture
def scene(tmp_path, photo):
    """A file as a renderer writes it, 80 x 40: patches of light, dark values, and channels of all kinds."""
    light = light_of(photo[0, :, :40, :80]).numpy().astype(np.float16)
    for number, value in enumerate(PATCHES):
        light[:, 10:26, 2 + 20 * number : 18 + 20 * number] = value
    light[:, 36, ::3], light[1, 38, 5] = -0.01, 60_000
    alpha = np.ones((40, 80), np.float16)
    alpha[:4], alpha[4], alpha[28:30] = 0, 0.25, 0.1
    depth = np.linspace(1, 50, 3200, dtype=np.float32).reshape(40, 80).copy()
    depth[:8] = np.inf
    channels = dict(zip("RGB", light * alpha, strict=True))
    channels["R"][1, 7] = 3.5  # fire: light that covers nothing
    channels |= {"A": alpha, "Z": depth, "matte": alpha[::-1], "diffuse.R": light[0]}
    channels["id"] = np.arange(3200, dtype=np.uint32).reshape(40, 80) * 1_234_567
    windows = {"dataWindow": corners(10, 20, 89, 59), "displayWindow": corners(0, 0, 99, 99)}
    return write(tmp_path / "scene.exr", channels, chromaticities=ACES, comments="take 3", **windows)


def test_factor_1_changes_no_half_float(scene, tmp_path):
    assert run("upscale", scene, "--output", tmp_path / "out.exr", "--scale", 1, "--quiet") == 0
    (before, channels), (after, made) = load(scene), load(tmp_path / "out.exr")
    assert made.keys() == channels.keys()
    for name, pixels in channels.items():
        assert made[name].dtype == pixels.dtype
        assert np.array_equal(made[name], pixels), name
    assert after.pop("flowmapsr").startswith("FlowMapSR {")
    assert str(after) == str(before)  # primaries, comments, windows and compression


def test_factor_4_keeps_the_ratios_of_highlights_and_takes_the_other_channels_along(scene, tmp_path):
    assert run("upscale", scene, "--output", tmp_path / "out.exr", "--scale", 4, "--quiet") == 0
    (_, before), (header, made) = load(scene), load(tmp_path / "out.exr")
    assert {name: pixels.shape for name, pixels in made.items()} == dict.fromkeys(before, (160, 320))
    assert {name: pixels.dtype for name, pixels in made.items()} == {name: x.dtype for name, x in before.items()}
    for name in "RGB":
        for number, value in enumerate(PATCHES):
            patch = made[name][48:96, 8 + 80 * number + 8 : 8 + 80 * number + 56].astype(np.float32)
            assert patch.mean() == pytest.approx(value, rel=0.01)
    assert np.isfinite(made["R"]).all()
    assert np.array_equal(made["id"][2::4, 2::4], before["id"])
    assert np.array_equal(made["Z"][2::4, 2::4], before["Z"])
    assert made["matte"].max() <= 1
    assert made["matte"].astype(np.float32).mean() == pytest.approx(before["matte"].astype(np.float32).mean(), abs=0.01)
    assert str(header["dataWindow"]) == str(corners(40, 80, 359, 239))
    assert str(header["displayWindow"]) == str(corners(0, 0, 399, 399))


def test_inspect_says_how_it_was_made(scene, tmp_path, capsys):
    for name in ("out.exr", "out.tif"):
        assert run("upscale", scene, "--output", tmp_path / name, "--scale", 2, "--look", "faithful", "--quiet") == 0
        capsys.readouterr()
        assert run("inspect", tmp_path / name, "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["size"], said["source"], said["realism"]) == ("160x80", "scene.exr", 0)
        assert f"out-again{name[3:]}" in said["command"]


def test_a_map_and_a_picture_for_a_screen(scene, tmp_path, caplog):
    words = ("--output", tmp_path / "out.png", "--invention-map", tmp_path / "map.png", "--scale", 2, "--quiet")
    assert run("upscale", scene, *words) == 0
    picture = read_picture(tmp_path / "out.png")
    assert (picture.bits, picture.color.shape) == (16, (1, 3, 80, 160))
    assert "PNG has no place for channels Z, diffuse.R, id, matte, left out" in caplog.text
    assert "PNG holds nothing brighter than white, as .exr and .tif would" in caplog.text
    assert read_picture(tmp_path / "map-heat.png").color.shape == (1, 3, 80, 160)


def test_a_folder_has_them_beside_others(scene, tmp_path, photo):
    write_picture(Picture(photo[..., :20, :20]), tmp_path / "photo.png")
    assert run("upscale", tmp_path, "--output", tmp_path / "made", "--scale", 1.5, "--quiet") == 0
    assert {file.name for file in (tmp_path / "made").iterdir()} == {"scene.exr", "photo.png"}
    assert load(tmp_path / "made" / "scene.exr")[1]["R"].shape == (60, 120)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cut_out_has_no_dark_fringe(tmp_path, dtype):
    y, x = np.mgrid[:40, :40]
    alpha = (12.5 - np.hypot(y - 20, x - 20)).clip(0, 1)
    write(tmp_path / "in.exr", {name: (alpha * (1 if name == "A" else 50)).astype(np.float16) for name in "RGBA"})
    # a step of the network's output in bfloat16 is a tenth of so much light
    settings = ("--scale", 3, "--dtype", dtype, "--quiet")
    assert run("upscale", tmp_path / "in.exr", "--output", tmp_path / "out.exr", *settings) == 0
    _, made = load(tmp_path / "out.exr")
    opaque = made["A"].astype(np.float32)
    light = made["G"].astype(np.float32) + 50 * (1 - opaque)  # over what is as bright
    assert light.min() > 48
    assert light.max() < 52


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_gray_and_kinds_of_floats_stay(tmp_path, kind):
    light = np.geomspace(1e-4, 5e4, 96).reshape(8, 12).astype(kind)
    picture = read_picture(write(tmp_path / "in.exr", {"Y": light}))
    assert picture.gray
    write_picture(picture, tmp_path / "out.exr")
    _, channels = load(tmp_path / "out.exr")
    assert list(channels) == ["Y"]
    assert channels["Y"].dtype == kind
    assert np.allclose(channels["Y"], light, rtol=2e-6 if kind is np.float32 else 0)


def test_compression_with_loss_is_not_repeated(tmp_path):
    light = np.random.default_rng(0).random((8, 12)).astype(np.float16)
    source = write(tmp_path / "in.exr", dict.fromkeys("RGB", light), compression=OpenEXR.DWAA_COMPRESSION)
    write_picture(read_picture(source), tmp_path / "out.exr")
    header, channels = load(tmp_path / "out.exr")
    assert header["compression"] == OpenEXR.ZIP_COMPRESSION
    assert np.array_equal(channels["R"], load(source)[1]["R"])


def test_a_photograph_becomes_one(tmp_path, photo, caplog):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    write_picture(Picture(photo, metadata={"exif": exif.tobytes()}), tmp_path / "out.exr")
    assert "EXR has no place for exif, left out" in caplog.text
    _, channels = load(tmp_path / "out.exr")
    assert channels["G"].dtype == np.float16
    assert torch.allclose(light_of(photo)[0, 1], torch.from_numpy(channels["G"]).float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_floats(tmp_path, channels):
    samples = np.random.default_rng(1).lognormal(0, 3, (9, 14, channels)).astype(np.float32)
    samples[0, 0, 0] = -0.5
    if channels == 4:
        samples[..., -1] = np.linspace(0.1, 1, 126).reshape(9, 14)  # what is invisible may change
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kind = {"photometric": "rgb" if channels > 1 else "minisblack", "extrasamples": ["unassalpha"] * (channels == 4)}
    tifffile.imwrite(
        tmp_path / "in.tif", samples.squeeze(), iccprofile=profile, resolution=(300, 300), resolutionunit=2, **kind
    )
    assert run("upscale", tmp_path / "in.tif", "--output", tmp_path / "out.tif", "--scale", 1, "--quiet") == 0
    made = tifffile.imread(tmp_path / "out.tif")
    assert made.dtype == np.float32
    assert np.allclose(made, samples.squeeze(), rtol=2e-6, atol=1e-9)
    (again,) = read_frames(tmp_path / "out.tif")
    assert again.bits == 32
    assert again.metadata["icc_profile"] == profile
    assert again.metadata["dpi"] == (300, 300)


def test_what_is_no_number_is_said_and_does_not_spread(tmp_path, caplog):
    light = np.full((8, 12), 0.5, np.float16)
    light[2, 3], light[5, 5] = np.nan, np.inf
    source = write(tmp_path / "in.exr", dict.fromkeys("RGB", light))
    assert run("upscale", source, "--output", tmp_path / "out.exr", "--scale", 2, "--quiet") == 0
    assert "in.exr: 6 samples are infinite or no number; they become 65504 or 0" in caplog.text
    _, made = load(tmp_path / "out.exr")
    assert np.isfinite(made["G"]).all()
    assert np.allclose(made["G"][:, 18:], 0.5, rtol=0.02)


def test_bad_files_are_named_in_a_line(tmp_path, capfd):
    half = np.zeros((8, 12), np.float16)
    parts = [OpenEXR.Part({"name": name}, {"R": half, "G": half, "B": half}) for name in ("left", "right")]
    OpenEXR.File(parts).write(str(tmp_path / "parts.exr"))
    write(tmp_path / "depth.exr", {"Z": half, "diffuse.R": half})
    whole = write(tmp_path / "whole.exr", dict.fromkeys("RGB", np.random.default_rng(0).random((40, 50)).astype("f2")))
    for name, data in {"cut": whole.read_bytes()[:-60], "none": b"no image", "empty": b""}.items():
        (tmp_path / f"{name}.exr").write_bytes(data)
    deep = tmp_path / "whole.tif"
    tifffile.imwrite(deep, np.zeros((8, 12, 3), np.uint32), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "cut.tif",
        np.random.default_rng(0).random((40, 50, 3)).astype("f4"),
        compression="zlib",
        photometric="rgb",
    )
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:-60])
    for name, message in {
        "parts.exr": "holds 2 parts; save each as a file of its own",
        "depth.exr": "has no channels R, G and B, or Y, but Z, diffuse.R",
        "cut.exr": "damaged or truncated; copy it again",
        "none.exr": "is no EXR file, damaged or truncated; copy it again",
        "empty.exr": "is empty; copy it again",
        "missing.exr": "no such file; check the path",
        "whole.tif": "is a TIFF of a kind that is not read; save it as RGB, of 8 or 16 bits or floats",
        "cut.tif": "is damaged or truncated",
    }.items():
        assert run("upscale", tmp_path / name, "--output", tmp_path / "out.exr", "--quiet") == 2
        said = capfd.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    for words in (("degrade", "--scale", 2), ("upscale", "--auto")):
        assert run(words[0], whole, "--output", tmp_path / "out.exr", *words[1:]) == 2
    assert not (tmp_path / "out.exr").exists()


def test_without_the_library_it_says_what_to_install(scene, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((8, 12, 3), np.float32), photometric="rgb")
    for file in (scene, tmp_path / "in.tif"):
        with pytest.raises(UserError, match=r"pip install (OpenEXR|tifffile), in ComfyUI with its Python$"):
            read_picture(file)
    with pytest.raises(UserError, match=r"pip install OpenEXR, in ComfyUI with its Python$"):
        write_picture(Picture(torch.zeros(1, 3, 8, 8)), tmp_path / "out.exr")


def test_channels_are_interpolated_where_that_means_something():
    step = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    larger = torch.empty(1, 3, 8, 8)
    assert resize_plane("matte", step, larger).unique().numel() > 2
    for name, plane in {"Z": step, "left.Z": step, "crypto00.r": step, "id": step.long(), "P": step / step}.items():
        assert torch.equal(resize_plane(name, plane, larger).nan_to_num(), plane.repeat_interleave(4, 3)
                           .repeat_interleave(4, 2).nan_to_num())  # fmt: skip
