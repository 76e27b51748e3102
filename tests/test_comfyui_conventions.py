"""What newer versions of ComfyUI ask of nodes, in all versions: older ones have no place for some of it."""

import asyncio
import json
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import COMFYUI, NEEDS_COMFYUI, ROOT, Server
from local_model import save_local
from PIL import Image

pytestmark = NEEDS_COMFYUI
BEFORE = ROOT / "tests" / "data" / "workflows_before"
RENAMED = '''
"""A pack in which a node was renamed, and two of its inputs with it."""

from comfy_api.latest import ComfyAPI, ComfyExtension, io


class Renamed(ComfyExtension):
    async def on_load(self):
        if hasattr(io, "NodeReplace"):
            kept = [{"new_id": name, "old_id": name} for name in ("image", "look")]
            mapping = [*kept, {"new_id": "factor", "old_id": "scale"}, {"new_id": "seed", "set_value": 0}]
            await ComfyAPI().node_replacement.register(
                io.NodeReplace(
                    "FlowMapSR_Upscale", "FlowMapSR_Enlarge", old_widget_ids=["scale", "look"], input_mapping=mapping
                )
            )

    async def get_node_list(self):
        return []


async def comfy_entrypoint():
    return Renamed()
'''


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def upscale(kind="FlowMapSR_Upscale", **inputs):
    return {
        "1": make_node("LoadImage", image="example.png"),
        "3": make_node(kind, image=["1", 0], look="faithful", **inputs),
        "4": make_node("SaveImage", images=["3", 0], filename_prefix="conventions"),
    }


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    save_local(base / "models" / "flowmapsr")
    return import_nodes(base)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    pack, picture = base / "custom_nodes" / "renamed" / "__init__.py", base / "input" / "example.png"
    for file in (pack, picture):
        file.parent.mkdir(parents=True)
    pack.write_text(RENAMED)
    Image.open(ROOT / "tests" / "data" / "jetty.png").resize((48, 32)).save(picture)
    running = Server(base)
    yield running
    running.stop()


@torch.inference_mode()
def test_models_come_and_go_by_the_patcher_of_comfyuis_own_models(nodes, monkeypatch):
    """It is put in its place when ComfyUI has started, after nodes are imported."""
    import comfy.model_patcher
    from flowmapsr.nodes.comfyui import loading

    class Dynamic(comfy.model_patcher.ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic, raising=False)
    patcher = loading.load_patcher("local.safetensors", "float32")
    name, weight = next(item for item in patcher.model.named_parameters() if item[1].dim() > 1)
    patcher.add_patches({name: (torch.ones_like(weight),)}, 1.0)
    assert [type(model) for model in (patcher, loading.at_look(patcher, "vivid"))] == [Dynamic] * 2
    monkeypatch.undo()
    usual = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    assert type(loading.load_patcher("local.safetensors", "float32")) is usual is not Dynamic


@torch.inference_mode()
def results(nodes, image):
    """What nodes give out that is an image, a mask or a latent; each takes what others gave out."""
    model, vae, _ = nodes.load_model.LoadModel.execute("built-in", "float32").args
    lr, upscaled, alpha, *_ = nodes.load_low_res.LoadLowRes.execute("", "factor", 4.0, 64, 1.0, image).args
    latent = nodes.sampler.Sampler.execute(model, upscaled, "1", 1.0, 0, 0, realism_mask=alpha).args[0]
    decoded = nodes.decode_tiled.DecodeTiled.execute(latent, vae, 0).args[0]
    matched = nodes.match_color.MatchColor.execute(decoded, lr, "lr-residual", 1.0).args[0]
    invented, heat, _ = nodes.invention_map.InventionMap.execute(matched, lr, "balanced", model).args
    both = nodes.compare.Compare.execute(matched, upscaled).args[1]
    # not of what a node gave out: JPEG makes a step out of a rounding
    spoiled = nodes.degrade.Degrade.execute(image, 1.0, "real-esrgan", 0).args[0]
    painted = nodes.upscale.Upscale.execute(matched, 1.0, "vivid", model, invented).args[0]
    return [lr, upscaled, alpha, latent["samples"], decoded, matched, invented, heat, both, painted, spoiled]


def test_results_have_the_precision_that_comfyui_keeps_them_in(nodes, monkeypatch):
    import comfy.model_management
    from comfy.cli_args import args

    image = torch.rand(1, 16, 24, 4, generator=torch.Generator().manual_seed(0))
    exact = results(nodes, image)
    assert {result.dtype for result in exact} == {torch.float32}
    monkeypatch.setattr(args, "fp16_intermediates", True, raising=False)
    halves = hasattr(comfy.model_management, "intermediate_dtype")
    apart = []
    for half, single in zip(results(nodes, image), exact, strict=True):
        assert half.dtype == (torch.float16 if halves else torch.float32)
        apart.append((half - single).abs().max().item())
    assert max(apart) < 0.005


def test_results_are_where_comfyui_keeps_them(nodes, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: torch.device("meta"))
    result = nodes.degrade.Degrade.execute(torch.rand(1, 16, 24, 3), 2.0, "bicubic", 0).args[0]
    assert result.device.type == "meta"


def test_the_node_that_does_it_all_is_among_the_essentials(server):
    node = server.nodes["FlowMapSR_Upscale"]
    assert node["category"] == server.nodes["ImageUpscaleWithModel"]["category"]
    has_essentials = "essentials_category" in server.nodes["ImageScaleToMaxDimension"]
    assert node.get("essentials_category") == ("Image Tools" if has_essentials else None)


@pytest.mark.parametrize(("method", "wanted"), [("none", False), ("latent2rgb", True)])
def test_previews_are_shown_as_the_user_has_set_it_for_the_run(server, method, wanted):
    from aiohttp import ClientSession, WSMsgType

    async def previews():
        address = f"http://{server.address}/ws?clientId={method}"
        async with ClientSession() as client, client.ws_connect(address) as socket:
            prompt = {"prompt": upscale(factor=2.0 + wanted), "extra_data": {"preview_method": method}}
            await asyncio.to_thread(server.post, "/prompt", {**prompt, "client_id": method})
            seen = 0
            while True:
                message = await asyncio.wait_for(socket.receive(), 120)
                if message.type == WSMsgType.BINARY:
                    seen += 1
                elif message.type == WSMsgType.TEXT:
                    event = json.loads(message.data)
                    assert event["type"] != "execution_error", event
                    if event["type"] == "executing" and event["data"]["node"] is None:
                        return seen

    # ComfyUI 0.3.64 has a flag alone, which the server of these tests is started with
    per_run = "def set_preview_method" in (Path(COMFYUI) / "latent_preview.py").read_text()
    assert (asyncio.run(previews()) > 0) == (wanted or not per_run)


def test_a_renamed_node_is_replaced(server):
    """How a node whose inputs must change goes on in prompts and workflows that were saved before."""
    old = upscale("FlowMapSR_Enlarge", scale=2.0)
    old["3"]["_meta"] = {"title": "Enlarge"}  # as the page sends it; ComfyUI replaces no node without
    try:
        (replacement,) = server.get("/node_replacements")["FlowMapSR_Enlarge"]
    except urllib.error.HTTPError:
        pytest.skip("this version of ComfyUI replaces no nodes")
    assert replacement["new_node_id"] == "FlowMapSR_Upscale"
    (renamed,), (present,) = (server.saved(server.succeed(prompt)) for prompt in (old, upscale(factor=2.0)))
    assert renamed.shape == (64, 96, 3)
    assert np.array_equal(renamed, present)


@pytest.mark.parametrize("name", sorted({path.name.split(".")[0] for path in BEFORE.glob("*.png")}))
def test_workflows_that_were_shared_before_give_the_same_pictures(server, name):
    from test_comfyui import to_prompt

    entry = server.succeed(to_prompt(json.loads((BEFORE / f"{name}.json").read_text()), server.nodes))
    for picture in BEFORE.glob(f"{name}.*.png"):
        (result,) = server.saved(entry, picture.suffixes[0].removeprefix("."))
        difference = np.abs(result - np.asarray(Image.open(picture), np.float32) / 255)
        # they were made in the precision of another CPU
        assert difference.max() < 8 / 255
        assert difference.mean() < 1 / 255
