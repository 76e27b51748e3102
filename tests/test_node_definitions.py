"""Node ids, inputs and outputs, without ComfyUI: read from the source, and as ComfyUI gave them out."""

import ast
import json

import pytest
from node_definitions import LOCALES, OBJECT_INFO, ROOT, english, inputs, is_ours

# shared workflows keep values by position and links by slot: what is here can be added to at the end, not changed
FROZEN = {
    "FlowMapSR_LoadModel": "model COMBO, weight_dtype COMBO -> model FLOWMAPSR_MODEL, vae VAE, "
    "upscale_model UPSCALE_MODEL",
    "FlowMapSR_LoadLoRA": "model FLOWMAPSR_MODEL, lora COMBO, scale FLOAT -> model FLOWMAPSR_MODEL",
    "FlowMapSR_LoadLowRes": "image COMBO, size_by COMBO, factor FLOAT, longest_edge INT, megapixels FLOAT, "
    "pixels? IMAGE, auto? BOOLEAN, wrap? COMBO -> lr IMAGE, upscaled IMAGE, alpha MASK, width INT, height INT, "
    "source FLOWMAPSR_SOURCE",
    "FlowMapSR_Sampler": "model FLOWMAPSR_MODEL, image IMAGE, steps COMBO, guidance FLOAT, tile INT, overlap INT, "
    "prompt STRING, vae? VAE, clip? CLIP, positive? CONDITIONING, realism? FLOAT, seed? INT, realism_mask? MASK, "
    "wrap? COMBO -> latent LATENT",
    "FlowMapSR_DecodeTiled": "samples LATENT, vae VAE, band INT, wrap? COMBO -> image IMAGE",
    "FlowMapSR_Upscale": "image IMAGE, factor FLOAT, look COMBO, model? FLOWMAPSR_MODEL, realism_mask? MASK, "
    "seed? INT, wrap? COMBO, upscale_model? UPSCALE_MODEL -> image IMAGE",
    "FlowMapSR_MatchColor": "image IMAGE, reference IMAGE, method COMBO, strength FLOAT, wrap? COMBO -> image IMAGE",
    "FlowMapSR_Degrade": "image IMAGE, factor FLOAT, preset COMBO, seed INT -> image IMAGE",
    "FlowMapSR_Compare": "image IMAGE, reference IMAGE -> text STRING, side_by_side IMAGE",
    "FlowMapSR_InventionMap": "image IMAGE, source IMAGE, look COMBO, model? FLOWMAPSR_MODEL, "
    "wrap? COMBO -> map MASK, heat IMAGE, score FLOAT",
    "FlowMapSR_Save": "images IMAGE, filename_prefix STRING, format COMBO, quality INT, source? FLOWMAPSR_SOURCE -> ",
    "FlowMapSR_UpscaleVideo": "video VIDEO, factor FLOAT, look COMBO, model? FLOWMAPSR_MODEL, seed? INT, "
    "temporal? BOOLEAN -> video VIDEO",
}
DO_IT_ALL = ("FlowMapSR_Upscale", "FlowMapSR_UpscaleVideo")
DEFINITIONS = {name: node for name, node in json.loads(OBJECT_INFO.read_text()).items() if is_ours(name)}
SOURCES = [ast.parse(path.read_text()) for path in sorted((ROOT / "nodes").rglob("*.py"))]


def keywords(call):
    return {keyword.arg: keyword.value for keyword in call.keywords}


def custom_types():
    """Types of our own, what is assigned ``io.Custom("NAME")``, and the one whose name is of two words."""
    assigned = [node for source in SOURCES for node in ast.walk(source) if isinstance(node, ast.Assign)]
    return {"io.UpscaleModel": "UPSCALE_MODEL"} | {
        node.targets[0].id: node.value.args[0].value
        for node in assigned
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "io.Custom"
    }


def slots(group, kind, types):
    """The inputs or outputs in a list of the source, in its order: "name TYPE", with a question mark if optional."""
    found = []
    for item in group.elts:
        calls = [node for node in ast.walk(item) if isinstance(node, ast.Call)]
        (call,) = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == kind]
        options, word = keywords(call), ast.unparse(call.func.value)
        name = call.args[0] if call.args else options["display_name"]
        optional = "?" if "optional" in options else ""
        found.append(f"{name.value}{optional} {types.get(word) or word.removeprefix('io.').upper()}")
    return ", ".join(found)


def signatures_of_source():
    types, found = custom_types(), {}
    for call in (node for source in SOURCES for node in ast.walk(source) if isinstance(node, ast.Call)):
        schema = keywords(call)
        if "node_id" in schema:
            parts = slots(schema["inputs"], "Input", types), slots(schema["outputs"], "Output", types)
            found[schema["node_id"].value] = " -> ".join(parts)
    return found


def signature(node):
    """The same of a definition that ComfyUI gave out."""
    takes = [f"{name}{'?' if optional else ''} {kind[0]}" for name, kind, optional in inputs(node)]
    gives = [f"{name} {kind}" for name, kind in zip(node["output_name"], node["output"], strict=True)]
    return f"{', '.join(takes)} -> {', '.join(gives)}"


def test_the_source_keeps_ids_names_types_and_order():
    assert signatures_of_source() == FROZEN


def test_the_committed_definitions_are_of_the_same_nodes():
    assert {name: signature(node) for name, node in DEFINITIONS.items()} == FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_every_node_says_what_it_is(name):
    node = DEFINITIONS[name]
    # together, below the place of ComfyUI's own upscalers; those that do it all are among them
    assert node["category"] == "image/upscaling" + ("" if name in DO_IT_ALL else "/FlowMapSR")
    assert 20 < len(node["description"]) < 120
    texts = [kind[1]["tooltip"] for _, kind, _ in inputs(node)] + node["output_tooltips"]
    assert all(texts)
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text()
    assert page.startswith(f"# {node['display_name']}\n")
    words = [name for name, _, _ in inputs(node)] + node["output_name"]
    assert [word for word in words if f"| **{word}** |" not in page] == []


@pytest.mark.parametrize("page", sorted((ROOT / "web" / "docs").glob("*/*.md")), ids=lambda page: page.parent.name)
def test_a_help_page_in_another_language_has_the_words_of_its_locale(page):
    texts = json.loads((LOCALES / page.stem / "nodeDefs.json").read_text(encoding="utf-8"))[page.parent.name]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {texts['display_name']}\n")
    words = [part["name"] for part in (*texts["inputs"].values(), *texts["outputs"].values())]
    assert [word for word in words if f"| **{word}** |" not in text] == []


def test_every_help_page_is_there_in_every_language():
    languages = {folder.name for folder in LOCALES.iterdir()} - {"en"}
    pages = {(page.parent.name, page.stem) for page in (ROOT / "web" / "docs").glob("*/*.md")}
    assert pages == {(name, language) for name in FROZEN for language in languages}


def test_the_english_locale_is_what_the_nodes_say():
    locale = json.loads((LOCALES / "en" / "nodeDefs.json").read_text())
    assert locale == {name: english(node) for name, node in DEFINITIONS.items()}


def shape(texts):
    """The keys of nested texts, every text replaced by whether it is one that the page can show.

    In the page's translations ``{}``, ``@`` and ``|`` have a meaning of their own.
    """
    return {
        key: shape(text) if isinstance(text, dict) else bool(text.strip()) and not set("{}@|") & set(text)
        for key, text in texts.items()
    }


@pytest.mark.parametrize("language", [folder.name for folder in LOCALES.iterdir()])
def test_a_locale_covers_every_node_input_and_output(language):
    locale = json.loads((LOCALES / language / "nodeDefs.json").read_text())
    assert shape(locale) == {name: shape(english(node)) for name, node in DEFINITIONS.items()}
    assert "False" not in str(shape(locale))
