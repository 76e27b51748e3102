"""Upscale models in a real ComfyUI: the community's in our node, and ours in ComfyUI's node."""

import gc

import numpy as np
import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from PIL import Image
from small_upscalers import compact, esrgan, save, swinir

pytestmark = NEEDS_COMFYUI


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models" / "upscale_models"
    models.mkdir(parents=True)
    save(compact(), models / "compact.pth")
    save(swinir(), models / "swinir.safetensors")
    running = Server(base)
    picture = Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((96, 64))
    picture.save(running.base / "input" / "example.png")
    yield running
    running.stop()


def prompt_of(loader, slot, name, **settings):
    """The picture by ComfyUI's node, and by ours, one after the other in a batch."""
    settings = {"factor": 4.0, "look": "balanced", **settings}
    return {
        "1": make_node("LoadImage", image="example.png"),
        "2": make_node(loader, **name),
        "3": make_node("ImageUpscaleWithModel", upscale_model=["2", slot], image=["1", 0]),
        "5": make_node("FlowMapSR_Upscale", image=["1", 0], upscale_model=["2", slot], **settings),
        "6": make_node("ImageBatch", image1=["3", 0], image2=["5", 0]),
        "4": make_node("SaveImage", images=["6", 0], filename_prefix="models"),
    }


@pytest.mark.parametrize(("name", "factor"), [("compact.pth", 4.0), ("swinir.safetensors", 2.0)])
def test_our_node_paints_what_comfyuis_paints(server, name, factor):
    theirs, ours = server.saved(server.succeed(prompt_of("UpscaleModelLoader", 0, {"model_name": name}, factor=factor)))
    assert theirs.shape == ours.shape == (64 * factor, 96 * factor, 3)
    assert np.abs(theirs - ours).max() <= 1 / 255 + 1e-6


def test_any_factor_of_an_upscale_model(server):
    prompt = prompt_of("UpscaleModelLoader", 0, {"model_name": "compact.pth"}, factor=2.5)
    prompt["4"]["inputs"]["images"] = ["5", 0]
    (picture,) = server.saved(server.succeed(prompt))
    assert picture.shape == (160, 240, 3)


def test_comfyuis_node_paints_with_our_models_what_ours_does(server):
    loaded = {"model": "built-in", "weight_dtype": "auto"}
    theirs, ours = server.saved(server.succeed(prompt_of("FlowMapSR_LoadModel", 2, loaded)))
    assert theirs.shape == ours.shape == (256, 384, 3)
    assert np.abs(theirs - ours).max() <= 1 / 255 + 1e-6


def test_two_models_are_an_error_on_the_node(server):
    prompt = prompt_of("FlowMapSR_LoadModel", 2, {"model": "built-in", "weight_dtype": "auto"}, model=["2", 0])
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_Upscale"
    assert "both model and upscale_model are connected" in message


# ---------------------------------------------------------------------------------------------------- in this process


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    return import_nodes(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture
def upscaler(nodes, tmp_path, monkeypatch):
    """As *Load Upscale Model* gives it."""
    import folder_paths
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda folder, name: name)
    return UpscaleModelLoader.execute(str(save(esrgan(), tmp_path / "upscaler.pth"))).args[0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), KeyboardInterrupt()])
def test_weights_go_back_to_where_they_were(nodes, upscaler, monkeypatch, error):
    """Where ComfyUI does not manage them, that is the CPU."""
    from flowmapsr.nodes.comfyui.upscale_models import on_device

    moves = []
    monkeypatch.setattr(upscaler, "to", moves.append)
    monkeypatch.delattr(upscaler, "patcher", raising=False)

    def work():
        with on_device(upscaler, 2**20) as device:
            assert moves == [device]
            raise error

    with pytest.raises(type(error)):
        work()
    assert moves[1:] == ["cpu"]


@pytest.fixture(params=["the community's in our node", "ours in ComfyUI's node"])
def paint(request, nodes, upscaler):
    """Paints pictures x4."""
    if request.param.startswith("the"):
        return lambda image: nodes.Upscale.execute(image, 4.0, "balanced", upscale_model=upscaler).args[0]
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    model = nodes.LoadModel.execute("built-in", "float32").args[2]
    return lambda image: ImageUpscaleWithModel.execute(model, image).args[0]


def test_an_interrupt_is_heard_and_what_was_made_is_freed(paint):
    import comfy.model_management as management
    from flowmapsr.flowmapsr_core.networks.held import Held

    image = torch.rand(1, 72, 80, 3)

    def interrupted():
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            paint(image)

    interrupted()  # what is loaded is loaded
    with Held() as held:
        interrupted()
    gc.collect()
    assert held.most
    assert not held.alive
    assert paint(image[:, :9, :9]).shape == (1, 36, 36, 3)


def test_where_memory_runs_out_tiles_are_smaller_and_the_picture_the_same(paint, monkeypatch, caplog):
    from flowmapsr.flowmapsr_core.networks import CommunityNet, CompactNet

    image, calls = torch.rand(1, 72, 80, 3), []
    expected = paint(image)
    for kind in (CommunityNet, CompactNet):

        def evaluate(self, x, condition, painted=kind.evaluate):
            calls.append(x.shape)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("no memory")
            return painted(self, x, condition)

        monkeypatch.setattr(kind, "evaluate", evaluate)
    assert (paint(image) - expected).abs().max() < 0.5 / 255
    assert len(calls) > 2
    assert "out of memory; once more with less" in caplog.text


def test_our_model_moves_nothing_and_takes_any_picture(nodes):
    from flowmapsr.nodes.comfyui.upscale_models import OwnUpscaler

    patcher, _, model = nodes.LoadModel.execute("built-in", "float32").args
    before = next(patcher.model.parameters())
    assert isinstance(model, OwnUpscaler)
    assert model.to("meta") is model.half() is model.cpu() is model.eval() is model.model
    assert next(patcher.model.parameters()) is before
    assert model.scale == 4
    image = torch.rand(2, 3, 17, 23)
    picture = model(image)
    assert picture.shape == (2, 3, 68, 92)
    assert model(image.half()).dtype == torch.float16
    ours = nodes.Upscale.execute(image.movedim(1, -1), 4.0, "balanced", model=patcher).args[0]
    assert torch.equal(ours.movedim(-1, 1), picture)


@pytest.mark.parametrize("other", [object(), torch.nn.Linear(1, 1)])
def test_says_what_to_connect(nodes, other):
    from flowmapsr.flowmapsr_core import UserError

    with pytest.raises(UserError, match="connect the output of Load Upscale Model"):
        nodes.Upscale.execute(torch.rand(1, 8, 8, 3), 4.0, "balanced", upscale_model=other)
