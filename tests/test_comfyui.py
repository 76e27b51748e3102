"""The pack in a real ComfyUI: its server is started on the CPU and given the shipped workflow."""

import asyncio
import json
import re
import subprocess
import sys
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfyui_server import COMFYUI, NEEDS_COMFYUI, ROOT, Server
from local_model import save_local
from PIL import Image
from safetensors.torch import load_file, save_file

WORKFLOW = ROOT / "workflows" / "flowmapsr_upscale.json"

pytestmark = NEEDS_COMFYUI


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    save_local(running.base / "models" / "flowmapsr")
    yield running
    running.stop()


def to_prompt(workflow, nodes):
    """What the page submits for a workflow: widgets by name, links by node and slot."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        inputs = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot.get("link")}
        values = zip(widgets_of(nodes[node["type"]]), node.get("widgets_values", []), strict=False)
        inputs.update((name, value) for name, value in values if name)
        prompt[str(node["id"])] = make_node(node["type"], **inputs)
    return prompt


def widgets_of(schema):
    """A node's widgets in the order in which the page stores their values; empty for those that are no inputs."""
    for group, kinds in schema["input"].items():
        for name in schema["input_order"][group]:
            kind, options = (*kinds[name], {})[:2]
            if isinstance(kind, list) or kind in WIDGETS:
                yield name
                if options.get("control_after_generate"):
                    yield ""
        if group == "required" and any((*kind, {})[1].get("image_upload") for kind in kinds.values()):
            yield ""  # the button


WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def make_node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture
def picture(server):
    """A small image in ComfyUI's input folder under the name the workflow opens."""
    image = Image.open(ROOT / "tests" / "data" / "jetty.png").convert("RGB").resize((192, 128))
    image.save(server.base / "input" / "example.png")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture
def whole(server, picture):
    return to_prompt(json.loads(WORKFLOW.read_text()), server.nodes)


@pytest.fixture
def prompt(whole):
    """The workflow's without its mask, which is the picture's alpha where nothing is painted."""
    del whole["6"], whole["3"]["inputs"]["realism_mask"]
    return whole


def test_the_built_in_model_comes_first(server):
    kind, *more = server.nodes["FlowMapSR_LoadModel"]["input"]["required"]["model"]
    options = kind if isinstance(kind, list) else more[0]["options"]
    assert options[0] == "built-in"
    assert "IMPORT FAILED" not in server.output()


def test_the_workflow_gives_the_pixels_of_the_command_and_the_function(server, whole, picture, tmp_path):
    from flowmapsr.flowmapsr_core import load_model, upscale
    from flowmapsr.flowmapsr_core.cli import command as cli
    from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype

    entry = server.succeed(whole)
    (node,) = server.saved(entry)
    source, target = server.base / "input" / "example.png", tmp_path / "out.png"
    assert (
        cli.main(["upscale", str(source), "--output", str(target), "--scale", "2", "--device", "cpu", "--quiet"]) == 0
    )
    command = np.asarray(Image.open(target), np.float32) / 255
    model = load_model(dtype=find_dtype("auto", TorchHost(torch.device("cpu"))))
    function = upscale(model, picture, 2.0)[0].permute(1, 2, 0).numpy()
    assert node.shape == command.shape == function.shape == (256, 384, 3)
    assert np.abs(node - command).max() <= 1 / 255 + 1e-6
    assert np.abs(node - function).max() <= 1 / 255 + 1e-6


def test_a_batch_is_every_image_and_the_model_is_optional(server, prompt):
    del prompt["2"], prompt["3"]["inputs"]["model"]
    prompt["5"] = make_node("ImageInvert", image=["1", 0])
    prompt["6"] = make_node("ImageBatch", image1=["1", 0], image2=["5", 0])
    prompt["3"]["inputs"] |= {"image": ["6", 0], "factor": 1.5, "look": "faithful"}
    entry = server.succeed(prompt)
    first, second = server.saved(entry)
    assert first.shape == second.shape == (192, 288, 3)
    assert np.abs(first - (1 - second)).mean() < 0.02


def test_alpha_survives(server, prompt, tmp_path):
    from flowmapsr.flowmapsr_core.cli import command as cli

    source, target = server.base / "input" / "example.png", tmp_path / "out.png"
    picture = Image.open(source)
    alpha = Image.linear_gradient("L").resize(picture.size)  # from 0 to 255, row by row
    picture.putalpha(alpha)
    picture.save(source)
    prompt["5"] = make_node("JoinImageWithAlpha", image=["1", 0], alpha=["1", 1])
    prompt["3"]["inputs"]["image"] = ["5", 0]
    entry = server.succeed(prompt)
    (image,) = server.saved(entry)
    assert image.shape == (256, 384, 4)
    rows = image[..., 3].reshape(128, 2, 192, 2).mean(axis=(1, 3))
    assert np.abs(rows - np.asarray(alpha, np.float32) / 255).max() < 0.02
    command = ["upscale", str(source), "--output", str(target), "--scale", "2", "--device", "cpu", "--quiet"]
    assert cli.main(command) == 0
    assert np.abs(image - np.asarray(Image.open(target), np.float32) / 255).max() <= 1 / 255 + 1e-6


def test_progress_with_previews_and_a_cancel_between_tiles(server, prompt, picture):
    from aiohttp import ClientSession, WSMsgType

    prompt["2"]["inputs"]["model"] = "local.safetensors"  # which takes a while
    prompt["3"]["inputs"] |= {"factor": 8.0, "look": "vivid"}
    prompt["4"]["inputs"]["filename_prefix"] = "cancelled"

    async def session():
        seen = {"previews": 0, "values": []}
        async with ClientSession() as client, client.ws_connect(f"http://{server.address}/ws?clientId=test") as socket:
            await asyncio.to_thread(server.post, "/prompt", {"prompt": prompt, "client_id": "test"})
            interrupted = False
            while True:
                message = await asyncio.wait_for(socket.receive(), 120)
                if message.type == WSMsgType.BINARY:
                    seen["previews"] += 1
                elif message.type == WSMsgType.TEXT:
                    event = json.loads(message.data)
                    if event["type"] == "progress":
                        seen["values"].append((event["data"]["value"], event["data"]["max"]))
                    if event["type"] in ("execution_interrupted", "execution_success", "execution_error"):
                        return event["type"], seen
                if seen["previews"] >= 2 and seen["values"] and not interrupted:
                    interrupted = True
                    await asyncio.to_thread(server.post, "/interrupt", {})

    outcome, seen = asyncio.run(session())
    assert outcome == "execution_interrupted"
    done, total = seen["values"][-1]
    assert 0 < done < total / 2
    assert not list((server.base / "output").glob("cancelled*"))


def test_a_bad_image_is_an_error_on_the_node(server, prompt):
    Image.new("RGB", (1, 1)).save(server.base / "input" / "tiny.png")
    prompt["1"]["inputs"]["image"] = "tiny.png"
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_Upscale"
    assert "smallest that can be upscaled" in message


FIGURES = ("PSNR-Y", "CIEDE2000 after low-pass", "High-frequency energy ratio")


def test_degrade_upscale_match_and_compare_a_batch_with_alpha(server, prompt, tmp_path):
    from flowmapsr.flowmapsr_core.cli import command as cli

    prompt["3"]["inputs"] |= {"image": ["8", 0], "factor": 2.0, "look": "faithful"}
    prompt["4"]["inputs"]["images"] = ["9", 0]
    prompt |= {
        "5": make_node("SolidMask", value=0.25, width=64, height=64),
        "6": make_node("JoinImageWithAlpha", image=["1", 0], alpha=["5", 0]),
        "7": make_node("RepeatImageBatch", image=["6", 0], amount=2),
        "8": make_node("FlowMapSR_Degrade", image=["7", 0], factor=2.0, preset="flowmapsr", seed=7),
        "9": make_node("FlowMapSR_MatchColor", image=["3", 0], reference=["8", 0], method="wavelet", strength=0.5),
        "10": make_node("FlowMapSR_Compare", image=["9", 0], reference=["1", 0]),
        "11": make_node("SaveImage", images=["8", 0], filename_prefix="degraded"),
        "12": make_node("SaveImage", images=["10", 1], filename_prefix="compared"),
        "13": make_node("PreviewAny", source=["10", 0]),
        "14": make_node("FlowMapSR_Compare", image=["8", 0], reference=["1", 0]),
    }
    entry = server.succeed(prompt)
    small, matched, compared = (server.saved(entry, node) for node in ("11", "4", "12"))
    assert [image.shape for image in small] == [(64, 96, 4)] * 2
    assert [image.shape for image in matched] == [(128, 192, 4)] * 2
    assert [image.shape for image in compared] == [(128, 384, 3)] * 2
    assert all(np.abs(image[..., 3] - 0.75).max() < 1 / 255 for image in small + matched)

    source, target = server.base / "input" / "example.png", tmp_path / "small.png"
    assert cli.main(["degrade", str(source), "--output", str(target), "--scale", "2", "--seed", "7"]) == 0
    command = np.asarray(Image.open(target), np.float32) / 255
    assert np.abs(small[0][..., :3] - command).mean() < 1 / 255
    assert not np.array_equal(small[0], small[1])

    (text,) = entry["outputs"]["10"]["text"]
    assert entry["outputs"]["13"]["text"] == [text]
    assert all(15 < float(psnr) < 50 for psnr in re.findall(r"^PSNR-Y: (.+) dB$", text, re.MULTILINE))
    assert [line.split(":")[0] for line in text.splitlines()] == [
        line for image in ("Image 1", "Image 2") for line in (image, *FIGURES)
    ]
    assert entry["outputs"]["14"]["text"][0].startswith("Resized from 96x64 to the reference's 192x128\n")


def test_references_are_one_or_as_many_as_images(server, prompt):
    prompt["5"] = make_node("RepeatImageBatch", image=["1", 0], amount=2)
    prompt["3"] = make_node("FlowMapSR_MatchColor", image=["1", 0], reference=["5", 0], method="none", strength=1.0)
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_MatchColor"
    assert "connect one reference, or one for each image" in message


def test_a_lora_changes_the_picture_by_its_scale_and_the_look(server, prompt, tmp_path):
    from flowmapsr.flowmapsr_core import load_model
    from flowmapsr.flowmapsr_core.cli import command as cli
    from flowmapsr.flowmapsr_core.files.lora import save_lora
    from flowmapsr.flowmapsr_core.model import FlowMap, Model
    from flowmapsr.flowmapsr_core.networks import LocalNet

    model = load_model(server.base / "models" / "flowmapsr" / "local.safetensors")
    name, weight = next(item for item in model.network.named_parameters() if item[0].endswith("conv2.weight"))
    out, *rest = weight.shape
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(size, generator=generator) * 0.2 for size in ((2, *rest), (out, 2, 1, 1)))
    config = replace(model.network.config, prompt_dim=8)
    other = Model(FlowMap(LocalNet(config)), model.codec)
    for file, base in (("detail", model), ("other", other)):
        path = server.base / "models" / "loras" / f"{file}.safetensors"
        save_lora(path, {name.removesuffix(".weight"): (down, up)}, 2, 2.0, base)

    prompt["2"]["inputs"]["model"] = "local.safetensors"

    def picture_at(scale, look):
        prompt["5"] = make_node("FlowMapSR_LoadLoRA", model=["2", 0], lora="detail.safetensors", scale=scale)
        prompt["3"]["inputs"] |= {"model": ["5", 0] if scale else ["2", 0], "look": look}
        return server.saved(server.succeed(prompt))[0]

    source = server.base / "input" / "example.png"
    lora = server.base / "models" / "loras" / "detail.safetensors"
    for look, scale in (("faithful", 1.5), ("balanced", 1.5), ("vivid", 0.75)):
        node, target = picture_at(scale, look), tmp_path / f"{look}.png"
        options = (
            "--model",
            server.base / "models" / "flowmapsr" / "local.safetensors",
            "--lora",
            lora,
            "--lora-scale",
            scale,
            "--look",
            look,
            "--scale",
            2,
            "--device",
            "cpu",
            "--quiet",
        )
        assert cli.main([str(part) for part in ("upscale", source, "--output", target, *options)]) == 0
        command = np.asarray(Image.open(target), np.float32) / 255
        assert np.abs(node - command).max() <= 1 / 255 + 1e-6
        difference = np.abs(node - picture_at(0.0, look)).max()
        assert difference == 0 if look == "faithful" else difference > 4 / 255
    picture_at(1.5, "balanced")
    prompt["5"]["inputs"] |= {"lora": "other.safetensors", "scale": 1.5}
    node, message = server.fail(prompt)
    assert node == "FlowMapSR_LoadLoRA"
    assert "was trained on a network whose prompt_dim is 8" in message


def test_a_mask_and_a_map_of_what_was_invented(server, prompt, picture):
    from flowmapsr.flowmapsr_core import load_model, upscale
    from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype

    prompt["3"]["inputs"] |= {"look": "vivid", "realism_mask": ["5", 0], "seed": 2**64 - 1}
    prompt |= {
        "5": make_node("SolidMask", value=0.5, width=192, height=128),
        "6": make_node("FlowMapSR_InventionMap", image=["3", 0], source=["1", 0], look="vivid"),
        "7": make_node("MaskToImage", mask=["6", 0]),
        "8": make_node("SaveImage", images=["7", 0], filename_prefix="map"),
        "9": make_node("SaveImage", images=["6", 1], filename_prefix="heat"),
        "10": make_node("PreviewAny", source=["6", 2]),
    }
    entry = server.succeed(prompt)
    (half,), (shown,), (heat,) = (server.saved(entry, node) for node in ("4", "8", "9"))
    model = load_model(dtype=find_dtype("auto", TorchHost(torch.device("cpu"))))
    expected = upscale(model, picture, 2.0, look="vivid", realism_mask=torch.full((1, 1, 128, 192), 0.5))
    assert np.abs(half - expected[0].permute(1, 2, 0).numpy()).max() <= 1 / 255 + 1e-6
    assert shown.shape == heat.shape == (256, 384, 3)
    (score,) = entry["outputs"]["10"]["text"]
    assert float(score) == pytest.approx(shown.mean(), abs=0.01)
    assert 0.01 < float(score) < 0.5


@pytest.mark.parametrize(
    ("node", "changes"),
    [("FlowMapSR_Upscale", {"seed": -1}), ("FlowMapSR_Sampler", {"realism": 1.5}),
     ("FlowMapSR_Sampler", {"seed": 2**64})],
)  # fmt: skip
def test_a_dial_or_seed_out_of_range_is_refused_before_anything_runs(server, prompt, node, changes):
    steps = {"steps": "2", "guidance": 2.0, "tile": 0, "overlap": 0, "prompt": ""}
    if node == "FlowMapSR_Sampler":
        prompt["3"] = make_node(node, image=["1", 0], model=["2", 0], **steps)
        prompt["4"] = make_node("PreviewAny", source=["3", 0])
    prompt["3"]["inputs"] |= changes
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.post("/prompt", {"prompt": prompt})
    (error,) = json.loads(caught.value.read())["node_errors"]["3"]["errors"]
    assert error["details"] in changes or error["extra_info"]["input_name"] in changes


LORA_SCALES = (0.0, 1.0, 1.5, 3.0)
APPLY_LORA = """
import importlib.util, sys
from pathlib import Path
from types import SimpleNamespace

_, root, lora, inputs, outputs, scales, *sys.argv[1:] = sys.argv
import comfy.options
comfy.options.enable_args_parsing()
import comfy.lora, torch
from safetensors.torch import load_file, save_file

spec = importlib.util.spec_from_file_location("pack", Path(root, "__init__.py"), submodule_search_locations=[root])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
import comfy.model_management
from pack.nodes.comfyui import loading

def loaded(patcher):
    comfy.model_management.load_models_gpu([patcher])
    return patcher.model

patcher = loading.load_patcher("base.safetensors", "float32")

# a model as ComfyUI wraps its own: its loader must know every layer of the file by its name there
wrapped = torch.nn.Module()
wrapped.diffusion_model = patcher.model.network
wrapped.model_config = SimpleNamespace(unet_config={})
known = comfy.lora.model_lora_keys_unet(wrapped, {})
layers = {key.removesuffix(".lora_up.weight") for key in load_file(lora) if key.endswith(".lora_up.weight")}
patches = comfy.lora.load_lora(load_file(lora), known)
assert patches.keys() == {f"{layer}.weight" for layer in layers}, patches.keys()

results, given = {}, load_file(inputs)
negative = given.pop("negative").bool()
with torch.no_grad():
    for scale in scales.split(","):
        patched = loading.with_lora(patcher, Path(lora), float(scale))
        results[scale] = loaded(patched)(**given, negative=negative).contiguous()
    results["base"] = loaded(patcher)(**given, negative=negative).contiguous()
save_file(results, outputs)
"""


@torch.no_grad()
def test_a_lora_through_comfyui_equals_the_core_with_peft(small_model, tmp_path, set_lora_scale):
    pytest.importorskip("peft", reason="LoRA training needs peft")
    from flowmapsr.flowmapsr_core import load_model, save_checkpoint
    from flowmapsr.flowmapsr_core.files.lora import save_lora
    from flowmapsr.trainer.learning.adapter import add_lora, lora_layers

    base, lora = tmp_path / "models" / "flowmapsr" / "base.safetensors", tmp_path / "lora.safetensors"
    save_checkpoint(small_model, base)
    model = load_model(base)
    ones = torch.ones(2)
    given = {"x": torch.randn(2, 12, 16, 20), "t": ones, "s": ones * 0.5, "guidance": ones * 2}
    negative = torch.tensor([False, True])
    untouched = model.flow(**given, negative=negative)
    for parameter in add_lora(model.flow, rank=4, alpha=2.0, targets=("gate", "conv1", "conv2", "linear", "down.0")):
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    save_lora(lora, lora_layers(model.flow), 4, 2.0, model)
    save_file({**{key: value.clone() for key, value in given.items()}, "negative": negative}, tmp_path / "inputs")
    done = subprocess.run(
        [sys.executable, "-c", APPLY_LORA, ROOT, lora, tmp_path / "inputs", tmp_path / "outputs",
         ",".join(str(scale) for scale in LORA_SCALES), "--cpu", "--base-directory", tmp_path],
        cwd=COMFYUI, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = load_file(tmp_path / "outputs")
    for scale in LORA_SCALES:
        set_lora_scale(model.flow, scale)
        expected = model.flow(**given, negative=negative)
        assert (results[str(scale)] - expected).abs().max() < 1e-3
        assert torch.equal(expected, untouched) == (scale == 0)
    assert torch.equal(results["0.0"], untouched)
    assert torch.equal(results["base"], untouched)  # its weights are back when the patches are gone
