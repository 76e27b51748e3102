"""Memory in a real ComfyUI: what a run takes is given back, and a model makes room for another one."""

import gc
import json
import time
import urllib.error
import weakref

import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI, ROOT, Server
from local_model import save_local
from PIL import Image
from safetensors.torch import save_file

pytestmark = NEEDS_COMFYUI
MIB = 2**20
LARGE = 300 * MIB  # of weights in float32: the model of ours and the other one are larger
NOISE = 8 * MIB  # the built-in model is 7 MiB in float32; measured without a leak: 0.2


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


OURS = {
    "1": make_node("LoadImage", image="small.png"),
    "2": make_node("FlowMapSR_LoadModel", model="large.safetensors", weight_dtype="float32"),
    "3": make_node("FlowMapSR_Upscale", image=["1", 0], factor=2.0, look="balanced", model=["2", 0]),
    "4": make_node("PreviewImage", images=["3", 0]),
    "5": make_node("FlowMapSR_Upscale", image=["1", 0], factor=2.0, look="balanced"),
    "6": make_node("PreviewImage", images=["5", 0]),
}
OTHER = {
    "1": make_node("LoadImage", image="small.png"),
    "2": make_node("VAELoader", vae_name="large vae.safetensors"),
    "3": make_node("VAEEncode", pixels=["1", 0], vae=["2", 0]),
    "4": make_node("VAEDecode", samples=["3", 0], vae=["2", 0]),
    "5": make_node("PreviewImage", images=["4", 0]),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with another folder of models in its ``extra_model_paths.yaml``."""
    folder = tmp_path_factory.mktemp("elsewhere")
    paths = folder / "paths.yaml"
    paths.write_text(f"studio:\n  base_path: {folder}\n  flowmapsr: checkpoints\n")
    (folder / "checkpoints").mkdir()
    write_large_model(folder / "checkpoints" / "large.safetensors")
    with pytest.MonkeyPatch.context() as environment:
        # glibc returns large blocks at once, instead of learning to keep them
        environment.setenv("MALLOC_MMAP_THRESHOLD_", str(2**17))
        running = Server(tmp_path_factory.mktemp("comfyui"), "--extra-model-paths-config", str(paths))
    Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((64, 48)).save(
        running.base / "input" / "small.png"
    )
    yield running
    running.stop()


def write_large_model(path):
    """A model of many weights that is quick on a small image: they are all at the lowest resolution."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import PixelCodec
    from flowmapsr.flowmapsr_core.networks import LocalNet, LocalNetConfig

    config = LocalNetConfig(widths=(8, 16, 2048), encoder_blocks=(0, 0, 1), decoder_blocks=(0, 0), condition_dim=16)
    model = Model(FlowMap(LocalNet(config)), PixelCodec())
    assert sum(weight.numel() for weight in model.flow.parameters()) * 4 > LARGE
    save_checkpoint(model, path)


def write_large_vae(path):
    """A VAE of SDXL's size."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    assert sum(weight.numel() for weight in vae.parameters()) * 4 > LARGE
    save_file(vae.state_dict(), path)


def resident(server):
    """Bytes of RAM that the server takes."""
    import psutil

    return psutil.Process(server.process.pid).memory_info().rss


def resident_when_freed(server):
    """Bytes of RAM that the server takes after it has been told to unload its models."""
    held = resident(server)
    for _ in range(5):
        time.sleep(2)  # ComfyUI hears nothing while it tidies up after a prompt
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(2)
        if resident(server) < held - LARGE / 2:
            break
    return resident(server)


@pytest.mark.slow
def test_runs_with_a_big_other_model_between_them_leave_memory_where_it_was(server):
    write_large_vae(server.base / "models" / "vae" / "large vae.safetensors")
    for prompt in (OURS, OTHER):  # what is imported at the first run stays
        server.succeed(prompt)
    before = resident_when_freed(server)
    for _ in range(3):
        for prompt in (OURS, OTHER, OURS):
            server.succeed(prompt)
            assert resident(server) - before > LARGE / 2  # kept for the next prompt
        assert abs(resident_when_freed(server) - before) < NOISE


def test_models_of_extra_model_paths_are_listed(server):
    kind, *more = server.nodes["FlowMapSR_LoadModel"]["input"]["required"]["model"]
    options = kind if isinstance(kind, list) else more[0]["options"]
    assert options == ["built-in", "mini", "base", "large.safetensors"]


def test_a_missing_model_is_named(server):
    missing = make_node("FlowMapSR_LoadModel", model="mountains.safetensors", weight_dtype="auto")
    prompt = {number: OURS[number] for number in ("1", "3", "4")} | {"2": missing}
    try:
        node, message = server.fail(prompt)
        assert node == "FlowMapSR_LoadModel"
    except urllib.error.HTTPError as refused:  # newer versions do not even begin
        (error,) = json.loads(refused.read())["node_errors"]["2"]["errors"]
        message = error["details"]
    assert "'mountains.safetensors' not " in message


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    return import_nodes(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(autouse=True)
def without_gradients():
    """As ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, nodes):
    """A model of VAE latents with its VAE; the nodes take its path for a name."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
    from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
    from flowmapsr.nodes.comfyui import loading

    monkeypatch.setattr(loading, "model_path", str)
    torch.manual_seed(0)
    model = Model(FlowMap(UNet(PRESETS["tiny"])), VAECodec(VAECodecConfig(block_out_channels=(32, 64, 128, 128))))
    for weight in model.flow.parameters():
        weight.data += torch.randn_like(weight) * 0.02
    path = tmp_path / "latent.safetensors"
    save_checkpoint(model, path)
    return path


def write_lora(path, network, targets):
    """A LoRA of rank 2 with random weights, of all layers whose name ends with one of ``targets``."""
    from flowmapsr.flowmapsr_core.files.lora import save_lora

    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name, weight in network.named_parameters():
        layer = name.removesuffix(".weight")
        if name != layer and layer.endswith(targets):
            out, *rest = weight.shape
            sizes = (2, *rest), (out, 2, *[1] * len(rest[1:]))
            layers[layer] = tuple(torch.randn(size, generator=generator) * 0.2 for size in sizes)
    assert layers
    save_lora(path, layers, 2, 2.0)
    return path


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, -3.0])
def test_a_unet_lora_through_comfyui_equals_the_core(nodes, checkpoint, tmp_path, monkeypatch, scale):
    import comfy.model_management as management
    from flowmapsr.flowmapsr_core import load_model
    from flowmapsr.flowmapsr_core.files.lora import merge_lora
    from flowmapsr.nodes.comfyui import loading

    expected = load_model(checkpoint)
    ones = torch.ones(2)
    given = {"x": torch.randn(2, 4, 16, 20), "t": ones, "s": ones * 0.5, "guidance": ones, "negative": ones < 0}
    untouched = expected.flow(**given)
    lora = write_lora(tmp_path / "lora.safetensors", expected.network, ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2"))
    merge_lora(expected, lora, scale)
    with monkeypatch.context() as patch:
        patch.setattr("flowmapsr.flowmapsr_core.files.lora.load_file", None)  # weights are ComfyUI's to read
        patched = loading.with_lora(loading.load_patcher(checkpoint, "float32"), lora, scale)
    management.load_models_gpu([patched])
    result = patched.model(**given)
    assert (result - expected.flow(**given)).abs().max() < 1e-3
    assert torch.equal(result, untouched) == (scale == 0)
    assert (result - untouched).abs().max() > 0.02 or scale == 0


@pytest.fixture
def device(nodes, monkeypatch):
    """The CPU as a device with room for a few models; from the CPU itself, ComfyUI evicts nothing."""
    import comfy.model_management as management

    device = torch.device("cpu", 0)
    room = management.minimum_inference_memory() + 16 * MIB

    def get_free_memory(_device=None, torch_free_too=False):
        free = room - sum(loaded.model_loaded_memory() for loaded in management.current_loaded_models)
        return (free, 0) if torch_free_too else free

    management.unload_all_models()
    monkeypatch.setattr(management, "get_torch_device", lambda: device)
    monkeypatch.setattr(management, "get_free_memory", get_free_memory)
    return device


@pytest.fixture
def model(device, tmp_path, monkeypatch):
    """The tests' model of several steps with a LoRA."""
    from flowmapsr.nodes.comfyui import loading

    monkeypatch.setattr(loading, "model_path", str)
    plain = loading.load_patcher(save_local(tmp_path), dtype="float32")
    lora = write_lora(tmp_path / "lora.safetensors", plain.model.network, ("conv2",))
    return loading.with_lora(plain, lora, 1.0)


def load_other(device, size):
    """Have ComfyUI load another model of some MiB."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    layer = torch.nn.Linear(size * MIB // 4, 1)
    other = ModelPatcher(torch.nn.Sequential(layer), device, torch.device("cpu"))
    management.load_models_gpu([other])
    return other


def test_a_model_makes_room_for_another_and_comes_back(nodes, device, model, photo):
    import comfy.model_management as management

    def upscaled():
        return nodes.upscale.Upscale.execute(photo.movedim(1, -1), 1.0, "balanced", model).args[0]

    own = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    first = upscaled()
    assert management.loaded_models() == [model]
    assert model.loaded_size() == model.model_size()
    other = load_other(device, 16)
    assert management.loaded_models() == [other]
    assert model.loaded_size() == 0
    assert model.current_loaded_device() == model.offload_device != device
    assert all(torch.equal(weight, own[name]) for name, weight in model.model.state_dict().items())
    assert torch.equal(upscaled(), first)
    assert model.loaded_size() == model.model_size()
    assert other.loaded_size() == 0


def test_a_model_works_where_a_part_of_it_has_made_room(device, model):
    import comfy.model_management as management

    ones = torch.ones(1)
    given = {"x": torch.randn(1, 12, 16, 20), "t": ones, "s": ones * 0.5, "guidance": ones, "negative": ones < 0}
    management.load_models_gpu([model])
    velocity = model.model(**given)
    other = load_other(device, 8)
    assert other.loaded_size() == other.model_size()
    assert 0 < model.loaded_size() < model.model_size()
    assert model.lowvram_patch_counter() > 0  # the LoRA's changes are added when the weights are used
    assert (model.model(**given) - velocity).abs().max() < 1e-5


def test_images_lie_where_comfyui_keeps_what_is_between_nodes(nodes, monkeypatch):
    import comfy.model_management as management
    from flowmapsr.nodes.comfyui.images import split_alpha

    monkeypatch.setattr(management, "intermediate_device", lambda: torch.device("meta"))
    assert {part.device.type for part in split_alpha(torch.rand(2, 16, 20, 4))} == {"meta"}


def test_weights_come_back_for_the_network_where_a_vae_has_taken_their_place(device, model):
    from flowmapsr.nodes.comfyui.managed import ManagedModel

    managed = ManagedModel(model, (64, 64))
    load_other(device, 16)
    assert model.loaded_size() == 0
    managed.velocity(2.0)
    assert model.loaded_size() == model.model_size()


def test_no_model_is_kept_alive(nodes, checkpoint, photo, tmp_path):
    import comfy.model_management as management
    from flowmapsr.nodes.comfyui import loading

    image, names = photo.movedim(1, -1), (str(save_local(tmp_path)), str(checkpoint))
    management.unload_all_models()
    alive = []
    for name in names:
        model, vae = nodes.load_model.LoadModel.execute(name, "float32").args[:2]
        target = "to_q" if name == str(checkpoint) else "conv2"
        lora = write_lora(tmp_path / "lora.safetensors", model.model.network, (target,))
        patched = loading.with_lora(model, lora, 1.0)
        nodes.upscale.Upscale.execute(image, 1.0, "balanced", patched)
        latent = nodes.sampler.Sampler.execute(model, image, "2", 2.0, 0, 0).args[0]
        nodes.decode_tiled.DecodeTiled.execute(latent, vae, 0)
        parts = (model, patched, model.model, model.model.network, vae, vae.patcher, vae.first_stage_model)
        alive += [weakref.ref(part) for part in parts]
        del model, patched, vae, parts
    nodes.upscale.Upscale.execute(image, 1.0, "balanced")
    gc.collect()
    assert [part() for part in alive if part() is not None] == []
    assert management.current_loaded_models == []
