"""Pictures whose edges meet, and soft ones, in a real ComfyUI."""

import numpy as np
import pytest
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from PIL import Image
from test_comfyui_chain import chain, make_node

pytestmark = NEEDS_COMFYUI


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    picture = Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB")
    pixels = np.asarray(picture.resize((64, 40)))
    Image.fromarray(pixels).save(running.base / "input" / "example.png")
    Image.fromarray(np.roll(pixels, (8, 20), (0, 1))).save(running.base / "input" / "rolled.png")
    picture.resize((960, 640), Image.Resampling.BICUBIC).save(running.base / "input" / "soft.png")
    yield running
    running.stop()


def separate(image, wrap):
    """The nodes of the chain, all of which wrap."""
    nodes = chain()
    for number in ("1", "3", "5", "6"):
        nodes[number]["inputs"]["wrap"] = wrap
    nodes["1"]["inputs"]["image"] = image
    return nodes


def whole(image, wrap):
    """The node that does it all."""
    upscale = make_node("FlowMapSR_Upscale", image=["1", 0], factor=4.0, look="balanced", wrap=wrap)
    return separate(image, wrap) | {"6": upscale}


def test_rolled_before_is_rolled_after(server):
    results = {}
    for make in (separate, whole):
        first, rolled, plain = (
            server.saved(server.succeed(make(*case)))[0]
            for case in (("example.png", "xy"), ("rolled.png", "xy"), ("example.png", "none"))
        )
        assert first.shape == (160, 256, 3)
        assert np.abs(rolled - np.roll(first, (32, 80), (0, 1))).max() <= 1 / 255 + 1e-6
        assert np.abs(first - plain)[:, 0].max() > 3 / 255
        results[make] = first
    # a VAE node gives colours in [0, 1]; the node that does it all corrects them before they are cut off
    assert np.abs(results[separate] - results[whole]).max() <= 3 / 255 + 1e-6


def test_a_side_that_ends_within_a_cell_is_said(server):
    prompt = separate("example.png", "x")
    prompt["1"]["inputs"] |= {"factor": 1.7}
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_Sampler"
    assert "the image's width is 109 pixels; to wrap around it has to be a multiple of 4, as 108" in message


def test_a_soft_picture_is_shrunk_first(server):
    loaded = {"size_by": "factor", "factor": 1.5, "longest_edge": 100, "megapixels": 0.01}
    prompt = {
        "1": make_node("FlowMapSR_LoadLowRes", image="soft.png", **loaded, auto=True),
        "2": make_node("SaveImage", images=["1", 0], filename_prefix="lr"),
        "3": make_node("SaveImage", images=["1", 1], filename_prefix="upscaled"),
    }
    entry = server.succeed(prompt)
    (lr,), (upscaled,) = (server.saved(entry, node) for node in ("2", "3"))
    assert 480 < lr.shape[1] < 900
    assert upscaled.shape == (960, 1440, 3)
    log = (server.base / "log.txt").read_text()
    assert "soft.png: 960x640 pixels with the detail of " in log
    assert f"; shrunk to {lr.shape[1]}x{lr.shape[0]} first, x" in log
