"""The workflows in the page of a real ComfyUI: each opens, keeps its values, runs, and its pictures appear."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import read_packets, write_clip
from comfyui_server import COMFYUI, ROOT, Server
from flowmapsr.flowmapsr_core.video.clip import read_clip
from node_definitions import BLUEPRINTS
from PIL import Image
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH is not set to a ComfyUI folder"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FRONTEND = os.environ.get("COMFYUI_FRONTEND")  # a front end of another version: the folder with its index.html
SCREENSHOTS = os.environ.get("FLOWMAPSR_SCREENSHOTS")
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.json"))
BEFORE = sorted((ROOT / "tests" / "data" / "workflows_before").glob("*.json"))  # as they were shared once
NEWER = {"flowmapsr_compare_looks_slider": "ImageCompare", "flowmapsr_degrade_compare_slider": "ImageCompare"}
NEWER |= {"flowmapsr_upscale_slider": "ImageCompare"}
FILES = ("flowmapsr/flowmapsr-xl.safetensors", "loras/flowmapsr-xl-detail.safetensors", "vae/sdxl_vae.safetensors")
SIZE = (96, 64)  # of the picture they open
SIZES = {  # of those they show
    "flowmapsr_compare_looks": {(192, 128)},
    "flowmapsr_compare_looks_slider": {SIZE, (192, 128)},
    "flowmapsr_degrade_compare": {(192, 64)},
    "flowmapsr_degrade_compare_slider": {SIZE},
    "flowmapsr_full_chain": {(384, 256)},
    "flowmapsr_masks": {(192, 128)},
    "flowmapsr_sdxl_lora": {(192, 128)},
    "flowmapsr_upscale": {(192, 128)},
    "flowmapsr_upscale_slider": {SIZE, (192, 128)},
    "flowmapsr_video": {(192, 128)},
}
CAMERA = 0x010F  # EXIF's Make
PICTURES = ("images", "a_images", "b_images")
SETTINGS = {  # else templates or a tour cover the canvas
    "Comfy.TutorialCompleted": True,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],
    "Comfy.Minimap.Visible": False,
}
MISSING = re.compile(r"\bmissing\b", re.IGNORECASE)

READY = "() => window.app?.canvas && window.LiteGraph?.registered_node_types.FlowMapSR_Upscale && true"
STARTED = "() => app.extensionManager.workflow?.activeWorkflow?.changeTracker && true"
# as if the file were dropped on the page; older pages do not wait for it themselves
OPEN = """text => new Promise(resolve => {
    const load = app.loadGraphData
    app.loadGraphData = async function (...values) {
        app.loadGraphData = load
        await load.apply(this, values)
        resolve()
    }
    app.handleFile(new File([text], 'workflow.json', { type: 'application/json' }))
})"""
# a photograph from its file to another one
PHOTOGRAPH = """form => {
    app.graph.clear()
    const types = ['FlowMapSR_LoadLowRes', 'FlowMapSR_Upscale', 'FlowMapSR_Save']
    const [load, upscale, save] = types.map(type => LiteGraph.createNode(type))
    for (const node of [load, upscale, save]) app.graph.add(node)
    load.connect(0, upscale, 0)
    upscale.connect(0, save, 0)
    load.connect(5, save, save.inputs.findIndex(input => input.name === 'source'))
    load.widgets.find(widget => widget.name === 'image').value = 'example.png'
    save.widgets.find(widget => widget.name === 'format').value = form
}"""
# as if a file of the input folder were dropped on the quick workflow's Load Image
CHOOSE_PHOTOGRAPH = """async name => {
    const photograph = await (await fetch(`/view?type=input&filename=${encodeURIComponent(name)}`)).blob()
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([photograph], `dropped ${name}`, { type: photograph.type }))
    await app.graph.getNodeById(1).onDragDrop({ dataTransfer, preventDefault() {}, stopPropagation() {} })
}"""
CHOSEN = "name => app.graph.getNodeById(1).widgets[0].value === `dropped ${name}`"
# as if a picture of the output folder were dropped on the page
DROP = """async ([name, type]) => {
    const picture = await (await fetch(`/view?type=output&filename=${encodeURIComponent(name)}`)).blob()
    app.graph.clear()
    await new Promise(resolve => {
        const load = app.loadGraphData
        app.loadGraphData = async function (...values) {
            app.loadGraphData = load
            await load.apply(this, values)
            resolve()
        }
        app.handleFile(new File([picture], name, { type }))
    })
}"""
SAVE = "() => JSON.parse(JSON.stringify(app.graph.serialize()))"
UNKNOWN = "() => app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
SHOWN = """([id, names]) => names.every(name => {
    const shown = [...document.images, ...document.querySelectorAll('video')]
    return [...(app.graph.getNodeById(id).imgs ?? []), ...shown].some(({ src, naturalWidth, videoWidth }) =>
        src.includes(`filename=${name}`) && (naturalWidth ?? videoWidth) > 0)
})"""
SELECT_IMAGE = "() => app.canvas.selectNode(app.graph.nodes.find(n => n.type === 'LoadImage'))"
PAINTED = """() => app.graph.nodes.find(n => n.type === 'LoadImage').widgets[0].value.includes('clipspace')"""
# a slider is shown only by nodes in the page's newer rendering
MODERN = "wanted => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', wanted)"
CHOOSE = """look => {
    const upscale = app.graph.getNodeById(3)
    upscale.widgets.find(widget => widget.name === 'look').value = look
}"""
# every widget of every node of ours moved off its default
MOVED = """() => {
    app.graph.clear()
    for (const type of Object.keys(LiteGraph.registered_node_types).filter(type => type.startsWith('FlowMapSR_'))) {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        for (const widget of node.widgets ?? [])
            if (typeof widget.value === 'number')
                widget.value = widget.value === widget.options.min ? widget.options.max : widget.options.min
            else if (Array.isArray(widget.options?.values)) widget.value = widget.options.values.at(-1)
            else if (widget.type !== 'button') widget.value = 'changed'
    }
}"""


def save_models(folder):
    """Small files with random weights under the names that workflows open; the VAE is of SDXL's own size."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, load_model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import VAECodec
    from flowmapsr.flowmapsr_core.files.lora import save_lora
    from flowmapsr.flowmapsr_core.networks import PRESETS, UNet

    base, lora, vae = (folder / name for name in FILES)
    for file in (base, lora, vae):
        file.parent.mkdir(parents=True)
    codec = VAECodec()
    save_file({name: weight.half() for name, weight in codec.vae.state_dict().items()}, vae)
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), codec.to("meta")), base)
    model = load_model(base, vae=vae)
    layers = {name: weight for name, weight in model.network.named_parameters() if name.endswith("to_q.weight")}
    pairs = {name.removesuffix(".weight"): (weight[:2], weight[:, :2]) for name, weight in layers.items()}
    save_lora(lora, pairs, 2, 2.0, model)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    settings, picture = base / "user" / "default" / "comfy.settings.json", base / "input" / "example.png"
    for file in (settings, picture):
        file.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    photo = Image.open(ROOT / "tests" / "data" / "jetty.png").resize(SIZE)
    photo.save(picture)
    write_clip(picture.with_suffix(".mp4"), [torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255] * 3)
    save_models(base / "models")
    running = Server(base, *(["--front-end-root", FRONTEND] if FRONTEND else []))
    yield running
    running.stop()
    shutil.rmtree(base / "models")


@pytest.fixture
def complaints():
    """What the page says about our nodes on its console, and requests of ours that failed."""
    return []


@pytest.fixture
def page(browser, server, complaints):
    opened = browser.new_page(viewport={"width": 1600, "height": 900})

    def note(text):
        if "flowmapsr" in text.lower() or "some-other" in text:
            complaints.append(text)

    opened.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: note(f"{error.message} {error.stack}"))
    opened.on("response", lambda answer: note(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    opened.goto(f"http://{server.address}/", wait_until="domcontentloaded")
    opened.wait_for_function(READY, timeout=120_000)
    yield opened
    opened.close()


def run(server, page):
    """The pictures of a run of the page's workflow, by the nodes that show them."""
    with page.expect_response(lambda answer: answer.url.endswith("/prompt")) as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.ok, sent.value.text()
    entry = server.wait(sent.value.json()["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]
    outputs = entry["outputs"].items()
    shown = {node: [image for kind in PICTURES for image in output.get(kind, [])] for node, output in outputs}
    return {node: images for node, images in shown.items() if images}


def file_of(server, image):
    return server.base / image["type"] / image["subfolder"] / image["filename"]


def size_of(file):
    """(width, height) of a picture or a clip."""
    return read_clip(file).size[::-1] if file.suffix == ".mp4" else Image.open(file).size


def values(workflow):
    return {node["id"]: (node["type"], node.get("widgets_values", [])) for node in workflow["nodes"]}


def reload(page):
    """The graph after it was saved and opened again, as it would be saved then."""
    page.evaluate(OPEN, json.dumps(page.evaluate(SAVE)))
    return page.evaluate(SAVE)


@pytest.mark.parametrize("file", [*WORKFLOWS, *BEFORE], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_workflow_opens_runs_and_shows_its_pictures(server, page, complaints, file, tmp_path):
    workflow = json.loads(file.read_text())
    if NEWER.get(file.stem, "LoadImage") not in server.nodes:
        pytest.skip(f"this version of ComfyUI has no {NEWER[file.stem]}")
    page.evaluate(MODERN, file.stem in NEWER)
    page.evaluate(OPEN, file.read_text())
    assert page.evaluate(UNKNOWN) == []
    wanted = values(workflow)
    for saved in (page.evaluate(SAVE), reload(page)):
        # a later ComfyUI may have given a node of its own more widgets
        found = {node: (kind, known[: len(wanted[node][1])]) for node, (kind, known) in values(saved).items()}
        assert found == wanted
        assert sorted(saved["links"]) == sorted(workflow["links"])

    pictures = run(server, page)
    assert pictures
    files = [file_of(server, image) for images in pictures.values() for image in images]
    assert {size_of(made) for made in files} == SIZES[file.stem]
    if file.stem == "flowmapsr_video":
        source = server.base / "input" / "example.mp4"
        assert [read_packets(made, "audio") for made in files] == [read_packets(source, "audio")]
    for node, images in pictures.items():
        page.wait_for_function(SHOWN, arg=[node, [image["filename"] for image in images]])
    page.screenshot(path=Path(SCREENSHOTS or tmp_path) / f"{file.parent.name}-{file.stem}.png")
    assert page.get_by_text(MISSING).all_inner_texts() == []
    assert complaints == []


def with_blueprint(path):
    """A workflow that loads a picture and what is painted on it, and saves what a blueprint makes of them."""
    blueprint = json.loads(path.read_text())
    (block,) = blueprint["nodes"]
    for link, slot in enumerate(block["inputs"][:2], 1):
        slot["link"] = link
    block["outputs"][0]["links"] = [3]
    common = {"pos": [0, 0], "size": [300, 300], "flags": {}, "order": 0, "mode": 0, "properties": {}}
    gives = [{"name": kind, "type": kind, "links": [link]} for link, kind in ((1, "IMAGE"), (2, "MASK"))]
    load = {**common, "id": 1, "type": "LoadImage", "outputs": gives, "widgets_values": ["example.png", "image"]}
    takes = [{"name": "images", "type": "IMAGE", "link": 3}]
    save = {**common, "id": 2, "type": "SaveImage", "inputs": takes, "widgets_values": ["blueprint"]}
    links = [[1, 1, 0, block["id"], 0, "IMAGE"], [2, 1, 1, block["id"], 1, "MASK"], [3, block["id"], 0, 2, 0, "IMAGE"]]
    return {**blueprint, "nodes": [load, save, block], "links": links, "last_link_id": 3}


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_runs_as_one_block(server, page, complaints, path):
    page.evaluate(OPEN, json.dumps(with_blueprint(path)))
    assert page.evaluate(UNKNOWN) == []
    (image,) = run(server, page)["2"]
    factor = page.evaluate("() => app.graph.nodes.at(-1).widgets.find(widget => widget.name === 'factor').value")
    assert Image.open(file_of(server, image)).size == (SIZE[0] * factor, SIZE[1] * factor)
    assert complaints == []


@pytest.mark.skipif(bool(FRONTEND), reason="that front end may be older than App mode")
def test_the_quick_workflow_opens_as_an_app(page, complaints):
    page.wait_for_function(STARTED)  # the page opens a workflow of its own first
    page.evaluate(OPEN, (ROOT / "workflows" / "flowmapsr_upscale.json").read_text())
    saved = page.evaluate(SAVE)["extra"]
    assert saved["linearMode"] is True
    assert [name for _, name, *_ in saved["linearData"]["inputs"]] == ["image", "factor", "look"]
    for role, name in (("combobox", "look"), ("button", "Run")):
        playwright.expect(page.get_by_role(role, name=name, exact=True)).to_be_visible(timeout=30_000)
    assert complaints == []


def paint(page):
    """Paint a line on the picture of Load Image, in ComfyUI's mask editor."""
    page.evaluate(SELECT_IMAGE)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
    save = page.get_by_text("Save", exact=True).last
    save.wait_for()
    page.wait_for_timeout(2000)  # until the editor has drawn the picture
    page.mouse.move(650, 400)
    page.mouse.down()
    page.mouse.move(800, 480, steps=20)
    page.mouse.up()
    save.click()
    page.wait_for_function(PAINTED)


def test_what_is_painted_in_comfyuis_own_editor_stays_closest_to_the_source(server, page, complaints):
    """Nothing does until something is painted, and then that alone."""

    def picture():
        (image,) = run(server, page)["4"]
        return np.asarray(Image.open(file_of(server, image)).convert("RGB"), float)

    page.evaluate(OPEN, (ROOT / "workflows" / "flowmapsr_masks.json").read_text())
    look = picture()
    paint(page)
    painted = picture()
    page.evaluate(CHOOSE, "faithful")
    faithful = picture()
    changed = np.abs(painted - look).max(axis=2) > 2
    assert 0.01 < changed.mean() < 0.5
    assert np.abs(painted - faithful)[changed].mean() < 0.2 * np.abs(look - faithful)[changed].mean()
    assert complaints == []


@pytest.mark.parametrize("form", ["png", "png 16-bit", "webp"])
def test_a_saved_photograph_is_shown_and_opens_its_workflow(server, page, complaints, form):
    page.evaluate(PHOTOGRAPH, form)
    queued = page.evaluate(SAVE)
    (((node, (image,)),)) = run(server, page).items()
    assert image["filename"].startswith("example_0000")
    page.wait_for_function(SHOWN, arg=[node, [image["filename"]]])
    page.evaluate(DROP, [image["filename"], f"image/{form.split()[0]}"])
    opened = page.evaluate(SAVE)
    assert values(opened) == values(queued)
    assert len(opened["links"]) == len(queued["links"]) == 3
    assert complaints == []


def test_from_a_photograph_to_a_picture_and_back(server, page, complaints, tmp_path, capsys):
    """The quick workflow: a photograph dropped, upscaled and saved, made again by the command, masked, and reopened."""
    from flowmapsr.flowmapsr_core.cli import command as cli

    exif = Image.Exif()
    exif[CAMERA] = "Camera"
    photograph = server.base / "input" / "IMG 7.png"
    Image.open(server.base / "input" / "example.png").save(photograph, exif=exif)
    workflow = json.loads((ROOT / "workflows" / "flowmapsr_upscale.json").read_text())
    del workflow["extra"]  # by which it opens as an app
    page.evaluate(OPEN, json.dumps(workflow))
    page.evaluate(CHOOSE_PHOTOGRAPH, photograph.name)
    page.wait_for_function(CHOSEN, arg=photograph.name)

    (image,) = run(server, page)["4"]
    assert image["filename"] == "dropped IMG 7_00001_.png"
    picture = file_of(server, image)
    assert Image.open(picture).getexif()[CAMERA] == "Camera"
    assert cli.main(["inspect", str(picture), "--json"]) == 0
    _, *words = shlex.split(json.loads(capsys.readouterr().out)["command"])
    words[1], words[3] = str(photograph.with_name(words[1])), str(tmp_path / words[3])
    assert cli.main([*words, "--device", "cpu", "--quiet"]) == 0
    pixels = [np.asarray(Image.open(path).convert("RGB"), float) for path in (picture, words[3])]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1

    paint(page)
    (image,) = run(server, page)["4"]
    assert image["filename"].startswith("FlowMapSR_")  # what the editor has written has no name to keep
    masked = np.asarray(Image.open(file_of(server, image)).convert("RGB"), float)
    changed = np.abs(masked - pixels[0]).max(axis=2) > 2
    assert 0.01 < changed.mean() < 0.5
    queued = values(page.evaluate(SAVE))
    page.evaluate(DROP, [image["filename"], "image/png"])
    assert values(page.evaluate(SAVE)) == queued
    assert complaints == []


def test_every_changed_value_survives_save_and_reload(page, complaints):
    page.evaluate(MOVED)
    changed = values(page.evaluate(SAVE))
    assert len(changed) == 12
    assert values(reload(page)) == changed
    assert complaints == []


def test_a_node_that_is_not_there_is_noticed(page):
    workflow = json.loads((ROOT / "workflows" / "flowmapsr_upscale.json").read_text())
    del workflow["extra"]  # by which it opens as an app, which shows no nodes
    page.evaluate(OPEN, json.dumps(workflow).replace("FlowMapSR_Upscale", "FlowMapSR_Other"))
    assert "FlowMapSR_Other" in page.evaluate(UNKNOWN)
    playwright.expect(page.get_by_text(MISSING).first).to_be_visible()
