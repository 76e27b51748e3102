"""The separate nodes in a real ComfyUI, wired with its own VAE nodes."""

import json
import time
import urllib.error

import numpy as np
import pytest
import torch
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from local_model import save_local
from PIL import Image
from safetensors.torch import save_file

pytestmark = NEEDS_COMFYUI
BALANCED = 0.99  # realism of the built-in model's look


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    save_local(running.base / "models" / "flowmapsr")
    Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((97, 66)).save(
        running.base / "input" / "example.png"
    )
    yield running
    running.stop()


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def chain(strength=1.0):
    """Load, sample, decode and match colours with the built-in model."""
    loaded = {"image": "example.png", "size_by": "factor", "factor": 4.0, "longest_edge": 512, "megapixels": 1.0}
    sampler = {"steps": "1", "guidance": 1.0, "realism": BALANCED, "tile": 0, "overlap": 0, "prompt": ""}
    return {
        "1": make_node("FlowMapSR_LoadLowRes", **loaded),
        "2": make_node("FlowMapSR_LoadModel", model="built-in", weight_dtype="auto"),
        "3": make_node("FlowMapSR_Sampler", model=["2", 0], image=["1", 1], **sampler),
        "5": make_node("FlowMapSR_DecodeTiled", samples=["3", 0], vae=["2", 1], band=0),
        "6": make_node(
            "FlowMapSR_MatchColor", image=["5", 0], reference=["1", 0], method="lr-residual", strength=strength
        ),
        "4": make_node("SaveImage", images=["6", 0], filename_prefix="chain"),
    }


def cached(entry):
    """Which nodes of a prompt were not run again."""
    (data,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_cached"]
    return set(data["nodes"])


def test_the_chain_is_the_node_that_does_it_all(server):
    (separate,) = server.saved(server.succeed(chain()))
    prompt = chain()
    prompt |= {"6": make_node("FlowMapSR_Upscale", image=["1", 0], factor=4.0, look="balanced", model=["2", 0])}
    (whole,) = server.saved(server.succeed(prompt))
    assert separate.shape == whole.shape == (264, 388, 3)
    assert np.abs(separate - whole).max() <= 1 / 255 + 1e-6


def test_what_has_not_changed_is_not_computed_again(server):
    server.succeed(chain())
    assert cached(server.succeed(chain())) == {"1", "2", "3", "4", "5", "6"}
    assert cached(server.succeed(chain(strength=0.25))) == {"1", "2", "3", "5"}


def test_the_pixel_codec_goes_through_comfyuis_own_vae_nodes(server):
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    prompt = chain() | {
        "7": make_node("VAEDecode", samples=["3", 0], vae=["2", 1]),
        "8": make_node("VAEDecodeTiled", samples=["3", 0], vae=["2", 1], **tiles),
        "9": make_node("VAEEncode", pixels=["7", 0], vae=["2", 1]),
        "10": make_node("VAEDecode", samples=["9", 0], vae=["2", 1]),
        "6": make_node("ImageBatch", image1=["5", 0], image2=["7", 0]),
        "11": make_node("ImageBatch", image1=["8", 0], image2=["10", 0]),
        "12": make_node("SaveImage", images=["11", 0], filename_prefix="codec"),
    }
    prompt["2"]["inputs"]["model"] = "local.safetensors"
    entry = server.succeed(prompt)
    exact, *others = [*server.saved(entry), *server.saved(entry, "12")]
    assert exact.shape == (264, 388, 3)
    assert all(np.abs(other - exact).max() <= 1 / 255 + 1e-6 for other in others)


def test_a_vae_file_is_decoded_as_by_vae_decode(server):
    """SDXL's shape, which ComfyUI finds out from a file in its own layout."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    save_file(vae.half().state_dict(), server.base / "models" / "vae" / "random.safetensors")
    prompt = {
        "1": make_node("LoadImage", image="example.png"),
        "2": make_node("VAELoader", vae_name="random.safetensors"),
        "3": make_node("VAEEncode", pixels=["1", 0], vae=["2", 0]),
        "5": make_node("FlowMapSR_DecodeTiled", samples=["3", 0], vae=["2", 0], band=16),
        "6": make_node("VAEDecode", samples=["3", 0], vae=["2", 0]),
        "7": make_node("ImageBatch", image1=["5", 0], image2=["6", 0]),
        "4": make_node("SaveImage", images=["7", 0], filename_prefix="vae"),
    }
    exact, own = server.saved(server.succeed(prompt))
    assert exact.shape == own.shape == (64, 96, 3)
    assert np.abs(exact - own).max() <= 1 / 255 + 1e-6


def test_a_decode_is_cancelled_between_bands(server):
    prompt = {
        "1": make_node("VAELoader", vae_name="random.safetensors"),
        "2": make_node("EmptyLatentImage", width=1024, height=1024, batch_size=1),
        "3": make_node("FlowMapSR_DecodeTiled", samples=["2", 0], vae=["1", 0], band=0),
        "4": make_node("SaveImage", images=["3", 0], filename_prefix="cancelled"),
    }
    number = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    time.sleep(5)
    assert not server.get(f"/history/{number}")
    server.post("/interrupt", {})
    while not server.get(f"/history/{number}"):
        time.sleep(0.05)
    messages = dict(server.get(f"/history/{number}")[number]["status"]["messages"])
    assert messages["execution_interrupted"]["node_type"] == "FlowMapSR_DecodeTiled"
    server.succeed(chain())


def test_a_missing_model_is_comfyuis_own_error(server):
    """New versions refuse the prompt; old ones do not check lists of nodes such as these, and fail on the node."""
    prompt = chain()
    prompt["2"]["inputs"]["model"] = "by someone.safetensors"
    try:
        node, message = server.fail(prompt)
        assert node == "FlowMapSR_LoadModel"
    except urllib.error.HTTPError as refused:
        (error,) = json.loads(refused.read())["node_errors"]["2"]["errors"]
        assert error["type"] == "value_not_in_list"
        message = error["details"]
    assert "by someone.safetensors" in message


def test_an_empty_latent_of_another_model_is_an_error_on_the_node(server):
    prompt = chain()
    prompt["3"] = make_node("EmptyLatentImage", width=64, height=64, batch_size=1)
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_DecodeTiled"
    assert "the latent has 4 channels, this VAE takes 48" in message


def test_pack_is_quiet(server):
    log = (server.base / "log.txt").read_text()
    assert "IMPORT FAILED" not in log
    assert "No VAE weights" not in log
