"""Load Low-Res Image in a real ComfyUI."""

import json
import urllib.error

import numpy as np
import pytest
import torch
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from PIL import Image

pytestmark = NEEDS_COMFYUI


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    yield running
    running.stop()


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture
def prompt(server):
    """The node on a picture of 40x24, everything that it gives saved or shown."""
    Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((40, 24)).save(
        server.base / "input" / "low.png"
    )
    sizes = {"size_by": "factor", "factor": 1.5, "longest_edge": 100, "megapixels": 0.01}
    return {
        "1": make_node("FlowMapSR_LoadLowRes", image="low.png", **sizes),
        "2": make_node("SaveImage", images=["1", 0], filename_prefix="lr"),
        "3": make_node("SaveImage", images=["1", 1], filename_prefix="upscaled"),
        "4": make_node("JoinImageWithAlpha", image=["1", 1], alpha=["1", 2]),
        "5": make_node("SaveImage", images=["4", 0], filename_prefix="joined"),
        "6": make_node("PreviewAny", source=["1", 3]),
        "7": make_node("PreviewAny", source=["1", 4]),
    }


def run(server, prompt):
    """The LR, upscaled and transparent pictures, and the (width, height) on the node."""
    entry = server.succeed(prompt)
    size = tuple(int(entry["outputs"][node]["text"][0]) for node in ("6", "7"))
    return *(server.saved(entry, node) for node in ("2", "3", "5")), size


@pytest.mark.parametrize(
    ("size_by", "size"),
    # 40 * (0.01 * 1024 * 1024 / (40 * 24)) ** 0.5 = 132.2, 24 * ... = 79.3
    [("factor", (60, 36)), ("longest edge", (100, 60)), ("megapixels", (132, 79))],
)
def test_sizes_and_pixels_are_the_cores(server, prompt, size_by, size):
    from flowmapsr.flowmapsr_core.images.resize import resize

    prompt["1"]["inputs"]["size_by"] = size_by
    (lr,), (upscaled,), (joined,), reported = run(server, prompt)
    source = np.asarray(Image.open(server.base / "input" / "low.png"), np.float32) / 255
    assert np.array_equal(lr, source)
    expected = resize(torch.from_numpy(source).permute(2, 0, 1)[None], size[::-1]).clamp(0, 1)[0].permute(1, 2, 0)
    assert np.abs(upscaled - expected.numpy()).max() <= 1 / 255 + 1e-6
    assert reported == size
    assert joined.shape == (*size[::-1], 4)
    assert joined[..., 3].min() == 1


def test_a_photograph_is_upright_and_transparency_becomes_the_mask(server, prompt):
    upright = np.zeros((40, 24, 4), np.uint8)
    upright[:20, :, 0], upright[:, :, 3] = 200, 255
    upright[:, :12, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(np.rot90(upright).copy()).save(server.base / "input" / "turned.png", exif=exif)
    prompt["1"]["inputs"] |= {"image": "turned.png", "factor": 2.0}
    (lr,), (upscaled,), (joined,), size = run(server, prompt)
    assert size == (48, 80)
    assert lr.shape == (40, 24, 3)
    assert np.array_equal(lr[:, 12:], upright[:, 12:, :3].astype(np.float32) / 255)
    assert upscaled.shape == (80, 48, 3)
    assert np.array_equal(joined[..., :3], upscaled)
    assert joined[:, :20, 3].max() < 0.05
    assert joined[:, 28:, 3].min() > 0.95


def test_what_the_mask_editor_has_painted_on_keeps_its_colours(server, prompt):
    samples = np.asarray(Image.open(server.base / "input" / "low.png").convert("RGBA")).copy()
    samples[:, 20:, 3] = 0
    Image.fromarray(samples).save(server.base / "input" / "clipspace-painted-masked-1.png")
    prompt["1"]["inputs"]["image"] = "clipspace-painted-masked-1.png [input]"
    (lr,), _, (joined,), _ = run(server, prompt)
    assert np.array_equal(lr, samples[..., :3].astype(np.float32) / 255)
    assert joined[:, 32:, 3].max() < 0.05


def test_frames_of_one_size_are_a_batch(server, prompt):
    pages = [Image.new("RGB", (40, 24), color) for color in ("red", "teal")]
    small, clear = Image.new("RGB", (20, 24)), Image.new("RGBA", (40, 24), (0, 0, 0, 0))
    pages[0].save(server.base / "input" / "pages.tif", save_all=True, append_images=[small, pages[1], clear])
    prompt["1"]["inputs"]["image"] = "pages.tif"
    lr, upscaled, joined, _ = run(server, prompt)
    assert [image.shape for image in lr] == [(24, 40, 3)] * 3
    assert [image.shape for image in upscaled] == [(36, 60, 3)] * 3
    for image, page in zip(lr, pages, strict=False):
        assert np.array_equal(image, np.asarray(page, np.float32) / 255)
    assert [image[..., 3].mean() for image in joined] == [1, 1, 0]


def test_connected_images_take_precedence_and_a_batch_stays_one(server, prompt):
    prompt["1"]["inputs"] |= {"image": "not there.png", "pixels": ["11", 0]}
    prompt["8"] = make_node("EmptyImage", width=20, height=10, batch_size=1, color=255)
    prompt["9"] = make_node("SolidMask", value=0.25, width=20, height=10)
    prompt["10"] = make_node("JoinImageWithAlpha", image=["8", 0], alpha=["9", 0])
    prompt["11"] = make_node("RepeatImageBatch", image=["10", 0], amount=2)
    lr, upscaled, joined, size = run(server, prompt)
    assert size == (30, 15)
    assert [image.shape for image in lr] == [(10, 20, 3)] * 2
    assert [image.shape for image in upscaled] == [(15, 30, 3)] * 2
    assert all(np.abs(image[..., 3] - 0.75).max() < 1 / 255 for image in joined)


def test_a_missing_file_is_refused_before_the_run(server, prompt):
    prompt["1"]["inputs"]["image"] = "not there.png"
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/prompt", {"prompt": prompt})
    (error,) = json.loads(refused.value.read())["node_errors"]["1"]["errors"]
    assert "not there.png is not in ComfyUI's input folder" in error["details"]


def test_only_a_changed_file_is_loaded_again(server, prompt):
    first = server.succeed(prompt)
    again = server.succeed(prompt)
    (cached,) = [data["nodes"] for kind, data in again["status"]["messages"] if kind == "execution_cached"]
    assert "1" in cached
    assert first["outputs"].keys() >= again["outputs"].keys()
    Image.new("RGB", (40, 24), "teal").save(server.base / "input" / "low.png")
    (lr,), *_ = run(server, prompt)
    assert np.abs(lr * 255 - (0, 128, 128)).max() < 1e-3


def test_a_size_out_of_range_is_an_error_that_names_it(server, prompt):
    prompt["1"]["inputs"] |= {"size_by": "longest edge", "longest_edge": 20}
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_LoadLowRes"
    assert "this longest edge makes a 40x24 image 0.5 times as large" in message
