"""Save Photograph in a real ComfyUI: what it keeps of a photograph, and what it notes to make a picture again."""

import errno
import functools
import json
import os
import re
import shlex
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from local_model import save_local
from PIL import Image, ImageCms

pytestmark = NEEDS_COMFYUI

MAKE, MODEL, ORIENTATION, DATE, EXPOSURE, EXIF_IFD, GPS_IFD = 0x010F, 0x0110, 0x0112, 0x0132, 0x829A, 0x8769, 0x8825
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rating>5</rating></x:xmpmeta>'
P3_RED = "0000838f00003dbdffffffbb"  # of Display P3 in D50, three numbers of 16.16 bits
SUFFIXES = {"png": "png", "png 16-bit": "png", "jpeg": "jpg", "webp": "webp", "tiff": "tif", "tiff 16-bit": "tif"}


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    save_local(running.base / "models" / "flowmapsr")
    yield running
    running.stop()


@functools.cache  # as it holds the time of day
def wide_gamut():
    """An ICC profile that is not sRGB's."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = int.from_bytes(profile[profile.index(b"rXYZ") + 4 :][:4], "big") + 8
    profile[place : place + 12] = bytes.fromhex(P3_RED)
    return bytes(profile)


@pytest.fixture
def photograph(server):
    """A camera's JPEG, lying on its side."""
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[DATE], exif[ORIENTATION] = "Camera", "C-1", "2024:05:06 07:08:09", 6
    exif.get_ifd(EXIF_IFD)[EXPOSURE] = 0.01
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (52.0, 30.0, 0.0)})
    path = server.base / "input" / "IMG 0042.jpg"
    image = Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((48, 32))
    image.save(path, quality=95, exif=exif, icc_profile=wide_gamut(), xmp=XMP, dpi=(300, 300))
    return path


@pytest.fixture
def prompt(photograph):
    sizes = {"size_by": "factor", "factor": 4.0, "longest_edge": 100, "megapixels": 0.01}
    return {
        "1": make_node("FlowMapSR_LoadLowRes", image=photograph.name, **sizes),
        "2": make_node("FlowMapSR_Upscale", image=["1", 0], factor=2.0, look="vivid", seed=2**64 - 1),
        "3": make_node("FlowMapSR_Save", images=["2", 0], source=["1", 5], **saving("png")),
    }


def saving(form, prefix="%name%", quality=95):
    return {"filename_prefix": prefix, "format": form, "quality": quality}


def saved(server, entry, node="3"):
    """The files that a node says it has saved."""
    files = entry["outputs"][node]["images"]
    return [server.base / file["type"] / file["subfolder"] / file["filename"] for file in files]


def inspected(path, capsys):
    from flowmapsr.flowmapsr_core.cli import command as cli

    assert cli.main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def made_again(described, photograph, folder):
    """The picture, (H, W, C), of the command that ``inspect`` prints."""
    from flowmapsr.flowmapsr_core.cli import command as cli
    from flowmapsr.flowmapsr_core.images.picture_files import read_picture

    program, *words = shlex.split(described["command"])
    assert program == "flowmapsr"
    words[1] = str(photograph.with_name(words[1]))
    words[3] = str(folder / words[3])
    models = photograph.parents[1] / "models" / "flowmapsr"
    words = [str(models / word) if word == "local.safetensors" else word for word in words]
    assert cli.main([*words, "--device", "cpu", "--quiet"]) == 0
    return read_picture(folder / words[3]).color


def test_light_brighter_than_white_stays_that(server, prompt):
    openexr = pytest.importorskip("OpenEXR")
    light = np.linspace(0, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)
    light[8:16, 8:16], light[8:16, 20:28] = 10, 100
    file = openexr.File({"type": openexr.scanlineimage}, {"RGB": light})
    file.write(str(server.base / "input" / "scene.exr"))
    prompt["1"]["inputs"]["image"] = "scene.exr"
    prompt["2"]["inputs"]["look"] = "faithful"
    prompt["3"]["inputs"] |= saving("exr", "light/%name%")
    entry = server.succeed(prompt)
    (path,) = (server.base / "output" / "light").iterdir()
    assert path.name == "scene_00001_.exr"
    assert saved(server, entry)[0].suffix == ".png"
    channels = openexr.File(str(path), separate_channels=True).channels()
    green = channels["G"].pixels
    assert green.dtype == np.float16
    means = [green[20:28, left : left + 8].astype(np.float32).mean() for left in (20, 44)]
    assert means == pytest.approx([10, 100], rel=0.02)


@pytest.mark.parametrize("form", SUFFIXES)
def test_a_photograph_stays_one_and_is_made_again(server, prompt, photograph, tmp_path, capsys, form):
    from flowmapsr.flowmapsr_core import load_model
    from flowmapsr.flowmapsr_core.images.picture_files import read_picture

    prompt["3"]["inputs"] |= saving(form, f"{form}/%name%")
    entry = server.succeed(prompt)
    (path,) = (server.base / "output" / form).iterdir()
    assert path.name == f"IMG 0042_00001_.{SUFFIXES[form]}"
    (shown,) = saved(server, entry)
    assert shown == path if SUFFIXES[form] != "tif" else shown.suffix == ".png"

    before, after = read_picture(photograph), read_picture(path)
    assert after.color.shape == (1, 3, 96, 64)
    assert after.bits == (16 if "16" in form else 8)
    assert after.metadata["icc_profile"] == before.metadata["icc_profile"] == wide_gamut()
    assert after.metadata["xmp"].strip(b"\0") == XMP
    if form != "webp":  # which has no place for it
        assert after.metadata["dpi"] == pytest.approx((300, 300), abs=0.02)
    with Image.open(path) as image:
        exif = image.getexif()
        assert (exif[MAKE], exif[MODEL], exif[DATE]) == ("Camera", "C-1", "2024:05:06 07:08:09")
        assert exif.get(ORIENTATION, 1) == 1
        assert float(exif.get_ifd(EXIF_IFD)[EXPOSURE]) == pytest.approx(0.01)
        assert [float(part) for part in exif.get_ifd(GPS_IFD)[2]] == [52, 30, 0]

    described = inspected(path, capsys)
    hashed = load_model().info["hash_sha256"]
    expected = {
        "kind": "picture", "model": "FlowMapSR mini", "hash": hashed, "model_file": "built-in", "steps": 1,
        "guidance": 1.0, "realism": 1.0, "seed": 2**64 - 1, "color": "lr-residual", "color_strength": 1.0,
        "source": "IMG 0042.jpg", "from": "32x48", "to": "64x96",
    }  # fmt: skip
    assert expected.items() <= described.items()
    assert "through" not in described
    again = made_again(described, photograph, tmp_path)
    difference = (again - after.color).abs().max() * 255
    assert difference <= (0 if form in ("jpeg", "webp") else 1) + 1e-3


def test_a_photograph_of_load_image_is_found_and_a_painted_copy_has_no_name(server, prompt, photograph, capsys):
    """By the quick workflow's links: its mask does nothing until something is painted."""
    prompt |= {
        "1": make_node("LoadImage", image=photograph.name),
        "4": make_node("InvertMask", mask=["1", 1]),
    }
    prompt["2"]["inputs"]["realism_mask"] = ["4", 0]
    del prompt["3"]["inputs"]["source"]
    (path,) = saved(server, server.succeed(prompt))
    assert re.fullmatch(r"IMG 0042_\d{5}_\.png", path.name)
    with Image.open(path) as image:
        assert image.getexif()[MAKE] == "Camera"
        assert image.info["icc_profile"] == wide_gamut()
    assert inspected(path, capsys)["command"].startswith("flowmapsr upscale 'IMG 0042.jpg'")

    painted = photograph.with_name("clipspace-painted-masked-1.png")
    with Image.open(photograph) as image:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(painted)
    prompt["1"]["inputs"]["image"] = painted.name
    (path,) = saved(server, server.succeed(prompt))
    assert re.fullmatch(r"FlowMapSR_\d{5}_\.png", path.name)
    described = inspected(path, capsys)
    assert described["source"] == painted.name
    assert described["no_command"].startswith("its realism mask was in no file")


def test_the_whole_chain_is_made_again(server, prompt, photograph, tmp_path, capsys):
    from flowmapsr.flowmapsr_core.images.picture_files import read_picture

    with Image.open(photograph) as image:  # nowhere near black or white: what is beyond, the VAE node cuts off
        image.point(lambda value: 64 + value // 2).save(photograph, quality=95)
    prompt |= {
        "2": make_node("FlowMapSR_LoadModel", model="local.safetensors", weight_dtype="float32"),
        "4": make_node("FlowMapSR_Sampler", model=["2", 0], image=["1", 1], steps="2", guidance=["9", 0], tile=0,
                       overlap=0, prompt="", realism=0.5),
        "5": make_node("FlowMapSR_DecodeTiled", samples=["4", 0], vae=["2", 1], band=0),
        "6": make_node("FlowMapSR_MatchColor", image=["5", 0], reference=["1", 0], method="wavelet", strength=0.5),
        "7": make_node("JoinImageWithAlpha", image=["6", 0], alpha=["1", 2]),
        "9": make_node("PrimitiveFloat", value=2.0),
    }  # fmt: skip
    prompt["3"]["inputs"] |= {"images": ["7", 0], "filename_prefix": "chain"}
    (path,) = saved(server, server.succeed(prompt))
    described = inspected(path, capsys)
    assert (described["steps"], described["realism"]) == (2, 0.5)
    assert (described["color"], described["color_strength"], described["dtype"]) == ("wavelet", 0.5, "float32")
    picture = read_picture(path)
    assert picture.alpha.min() == 1
    again = made_again(described, photograph, tmp_path)
    assert (again - picture.color).abs().max() <= 1 / 255 + 1e-5


def test_a_dropped_picture_opens_its_workflow(server, prompt):
    """Its page reads text of PNG, and of WebP all texts of EXIF that look like "key:value"."""
    found = {}
    for form in ("png", "png 16-bit", "webp", "jpeg"):
        prompt["3"]["inputs"] |= saving(form, "workflow")
        extra = {"extra_pnginfo": {"workflow": {"nodes": [], "name": "Grüße"}}}
        number = server.post("/prompt", {"prompt": prompt, "extra_data": extra})["prompt_id"]
        (path,) = saved(server, server.wait(number))
        with Image.open(path) as image:
            texts = [text for text in dict(image.getexif()).values() if isinstance(text, str)]
            found[form] = (
                dict(image.info) if "png" in form else dict(text.split(":", 1) for text in texts if ":" in text)
            )
        if form == "jpeg":
            assert not {"prompt", "workflow"} & found[form].keys()
        else:
            kept = json.loads(found[form]["prompt"])  # ComfyUI's notes on what has changed among it
            assert {name: make_node(node["class_type"], **node["inputs"]) for name, node in kept.items()} == prompt
            assert json.loads(found[form]["workflow"]) == extra["extra_pnginfo"]["workflow"]


def test_a_batch_with_alpha_in_16_bits_and_without_a_source(server, prompt, capsys):
    from flowmapsr.flowmapsr_core.images.picture_files import read_picture

    prompt |= {
        "1": make_node("EmptyImage", width=12, height=8, batch_size=1, color=0x336699),
        "2": make_node("SolidMask", value=0.3, width=12, height=8),
        "4": make_node("JoinImageWithAlpha", image=["1", 0], alpha=["2", 0]),
        "5": make_node("RepeatImageBatch", image=["4", 0], amount=2),
        "3": make_node("FlowMapSR_Save", images=["5", 0], **saving("png 16-bit", "batch/%name% %batch_num%")),
    }
    first = saved(server, server.succeed(prompt))
    assert [path.name for path in first] == ["FlowMapSR 0_00001_.png", "FlowMapSR 1_00002_.png"]
    for path in first:
        picture = read_picture(path)
        assert picture.bits == 16
        assert (picture.alpha - 0.7).abs().max() <= 0.51 / 65535
        assert (picture.color - torch.tensor([0.2, 0.4, 0.6])[:, None, None]).abs().max() <= 0.51 / 65535
    described = inspected(first[0], capsys)
    assert described["no_command"] == "the picture does not say all of its settings"
    before = [path.read_bytes() for path in first]
    prompt["2"]["inputs"]["value"] = 0.5
    again = saved(server, server.succeed(prompt))
    assert not {*again} & {*first}
    assert [path.read_bytes() for path in first] == before


@pytest.mark.parametrize("prefix", ["../outside", "/outside", "", "sub/..", "taken/picture"])
def test_a_place_where_nothing_can_be_saved_is_one_line(server, prompt, prefix):
    (server.base / "output" / "taken").write_text("a file, not a folder")
    prompt["3"]["inputs"]["filename_prefix"] = prefix
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_Save"
    assert "choose another" in message
    assert len(message.strip().splitlines()) == 1
    assert not list(server.base.glob("outside*"))


@pytest.fixture
def save(tmp_path, monkeypatch):
    """The node's ``execute`` in this process, with tmp_path for the output folder."""
    nodes = import_nodes(tmp_path)
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    hidden = SimpleNamespace(unique_id="3", prompt={"3": make_node("FlowMapSR_Save")}, extra_pnginfo=None)
    monkeypatch.setattr(nodes.Save, "hidden", hidden)
    return nodes.Save.execute


def test_a_full_disk_leaves_whole_pictures_only(save, tmp_path, monkeypatch):
    from flowmapsr.flowmapsr_core import UserError
    from flowmapsr.flowmapsr_core.images import picture_files

    whole, encode = [], picture_files._encode

    def fill(samples, file, *more):
        if samples.shape[0] > 1 and len(whole) == 1:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        encode(samples, file, *more)
        whole.extend([samples] * (samples.shape[0] > 1))

    monkeypatch.setattr(picture_files, "_encode", fill)
    with pytest.raises(UserError, match=r"a_00002_\.webp cannot be written: No space left on device; choose another"):
        save(torch.rand(3, 8, 9, 3), "a", "webp", 90)
    assert [path.name for path in tmp_path.glob("*.webp")] == ["a_00001_.webp"]
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_comfyui_has_left_is_removed(save, tmp_path):
    for name, age in (("old", 7200), ("new", 0)):
        partial = tmp_path / f".{name}.png.1.partial"
        partial.write_bytes(b"half")
        os.utime(partial, (time.time() - age,) * 2)
    save(torch.rand(1, 8, 9, 3), "a", "png", 95)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {".new.png.1.partial", "a_00001_.png"}


def test_comfyuis_switch_leaves_the_photographs_own_metadata(save, tmp_path, monkeypatch):
    from comfy.cli_args import args
    from flowmapsr.flowmapsr_core.images.record import read_record
    from flowmapsr.nodes.comfyui.source import Source

    exif = Image.Exif()
    exif[MAKE] = "Camera"
    source = Source("scan.tif", (4, 4), gray=False, metadata={"exif": exif.tobytes()})
    for off in (False, True):
        monkeypatch.setattr(args, "disable_metadata", off)
        save(torch.rand(1, 8, 9, 3), "%name%", "png", 95, source)
    for number, off in ((1, False), (2, True)):
        path = tmp_path / f"scan_0000{number}_.png"
        with Image.open(path) as image:
            assert image.getexif()[MAKE] == "Camera"
            assert ("prompt" in image.info) is not off
        assert (read_record(path) is None) is off


def test_gray_photographs_stay_gray_unless_they_are_coloured(save, tmp_path):
    from flowmapsr.flowmapsr_core.images.picture_files import read_picture
    from flowmapsr.nodes.comfyui.source import Source

    profile = bytearray(wide_gamut())
    profile[16:20] = b"GRAY"
    source = Source("scan.tif", (4, 4), gray=True, metadata={"icc_profile": bytes(profile)})
    gray = torch.rand(1, 8, 9, 1).expand(-1, -1, -1, 3)
    save(gray + torch.rand(1, 8, 9, 3) * 0.01, "gray", "tiff", 95, source)
    save(gray * torch.tensor([1.0, 0.8, 0.6]), "sepia", "tiff", 95, source)
    still, coloured = (read_picture(tmp_path / f"{name}_00001_.tif") for name in ("gray", "sepia"))
    assert still.gray
    assert still.metadata["icc_profile"] == bytes(profile)
    assert not coloured.gray
    assert "icc_profile" not in coloured.metadata


def test_dates_in_names_are_those_of_comfyuis_page(save, tmp_path):
    save(torch.rand(1, 8, 9, 3), "%date:yyyy%/%date:yyyy-MM-dd_hhmmss% %width%x%height%", "png", 95)
    (path,) = tmp_path.glob("2*/*.png")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6} 9x8_00001_\.png", path.name)
    assert path.name.startswith(path.parent.name)


def test_what_the_command_does_not_do_is_named(tmp_path):
    import_nodes(tmp_path)
    from flowmapsr.nodes.comfyui.history import history

    plain = {
        "1": make_node("LoadImage", image="sub/a.png [output]"),
        "2": make_node("FlowMapSR_LoadModel", model="mini", weight_dtype="float32"),
        "4": make_node("FlowMapSR_LoadLoRA", model=["2", 0], lora="sub/x.safetensors", scale=1.5),
        "5": make_node("FlowMapSR_LoadLoRA", model=["4", 0], lora="y.safetensors", scale=1.0),
        "6": make_node("FlowMapSR_Upscale", image=["1", 0], factor=2.0, look="vivid", model=["5", 0]),
        "9": make_node("FlowMapSR_Save", images=["6", 0]),
    }
    record = history(plain, "9")
    assert record["source"] == "a.png"
    assert record["loras"] == pytest.approx({"x.safetensors": 2.0, "y.safetensors": 4 / 3})
    assert "through" not in record

    def through(**changes):
        return history({**plain, **{name[1:]: node for name, node in changes.items()}}, "9").get("through")

    sharpened = make_node("ImageSharpen", image=["6", 0], sigma_radius=1)
    assert through(_7=sharpened, _9=make_node("FlowMapSR_Save", images=["7", 0])) == ["ImageSharpen"]
    low_res = make_node("FlowMapSR_LoadLowRes", image="a.png", size_by="factor", factor=2.0)
    assert through(_1=low_res) is None
    upscale = plain["6"]["inputs"]
    assert through(_1=low_res, _6=make_node("FlowMapSR_Upscale", **upscale | {"image": ["1", 1]})) == [
        "output 1 of FlowMapSR_LoadLowRes"
    ]
    matched = make_node("FlowMapSR_MatchColor", image=["6", 0], reference=["1", 0], method="lab", strength=1.0)
    assert through(_7=matched, _9=make_node("FlowMapSR_Save", images=["7", 0])) == ["FlowMapSR_MatchColor"]
    degraded = make_node("FlowMapSR_Degrade", image=["1", 0], factor=2.0, preset="bicubic", seed=1)
    assert through(_7=degraded, _6=make_node("FlowMapSR_Upscale", **upscale | {"image": ["7", 0]})) == [
        "FlowMapSR_Degrade"
    ]
    masked = make_node("FlowMapSR_Upscale", **upscale | {"realism_mask": ["8", 0]})
    assert history({**plain, "6": masked, "8": make_node("SolidMask", value=1.0)}, "9")["realism_mask"] is True
    assert through(_6=make_node("FlowMapSR_Upscale", **upscale | {"unheard_of": "x"})) == [
        "FlowMapSR_Upscale with unheard_of"
    ]
    given = make_node("FlowMapSR_Upscale", **upscale | {"look": ["8", 0]})
    assert through(_6=given, _8=make_node("SomeText", text="vivid")) == ["SomeText"]
    assert "steps" not in history({**plain, "6": given, "8": make_node("SomeText", text="vivid")}, "9")
    fp8 = history({**plain, "2": make_node("FlowMapSR_LoadModel", model="mini", weight_dtype="fp8_e4m3fn")}, "9")
    assert fp8["dtype"] == "fp8_e4m3fn"
    assert history({}, "9") == {}
