"""What ComfyUI tells its page about nodes (``object_info``), as it is committed for tests without ComfyUI.

``python tests/node_definitions.py`` writes it anew, and the English locale with it, from the ComfyUI in
``COMFYUI_PATH``, which has to be new enough for every workflow; needed after a change of a node, or when a workflow
uses another core node.
"""

import json
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OBJECT_INFO = ROOT / "tests" / "data" / "object_info.json"
LOCALES = ROOT / "locales"
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))  # ComfyUI's browser of templates shows these
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# the parts of a definition that ComfyUI 0.3.64 and later ones give alike
PARTS = ("input", "input_order", "output", "output_is_list", "output_name", "output_tooltips")
PARTS += ("name", "display_name", "description", "category", "output_node")
# inputs that list the files of a machine, and the files that workflows can count on
FILES = {
    "file": ["example.mp4"],
    "image": ["example.png"],
    "model": ["built-in", "flowmapsr-xl.safetensors"],
    "lora": ["flowmapsr-xl-detail.safetensors"],
    "vae_name": ["sdxl_vae.safetensors"],
}


def inputs(node):
    """Each input's name, type and options, in the page's order; and whether it may be left out."""
    groups = [(group, node["input"].get(group, {})) for group in ("required", "optional")]
    return [(name, kind, group == "optional") for group, members in groups for name, kind in members.items()]


def is_list(kind):
    """Whether an input is a list of choices, in either form that ComfyUI knows."""
    return kind[0] == "COMBO" or isinstance(kind[0], list)


def definition(node):
    """The definition of a node, the same from every ComfyUI and whatever files it has."""
    node = json.loads(json.dumps({part: node[part] for part in PARTS if part in node}))
    for name, kind, _ in inputs(node):
        if name in FILES and is_list(kind):
            if kind[0] == "COMBO":
                kind[1]["options"] = FILES[name]
            else:
                kind[0] = FILES[name]
    return node


def is_ours(name):
    return name.startswith("FlowMapSR_")


def english(node):
    """A node's texts in the form of ComfyUI's ``nodeDefs.json``."""
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: {"name": name, "tooltip": kind[1]["tooltip"]} for name, kind, _ in inputs(node)},
        "outputs": {str(slot): {"name": name, "tooltip": tooltip} for slot, (name, tooltip) in enumerate(outputs)},
    }


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from comfyui_server import Server

    server = Server(Path(tempfile.mkdtemp()))
    server.stop()
    used = {node["type"] for workflow in WORKFLOWS for node in json.loads(workflow.read_text())["nodes"]}
    kept = {name: definition(node) for name, node in sorted(server.nodes.items()) if name in used or is_ours(name)}
    write_json(OBJECT_INFO, kept)
    write_json(LOCALES / "en" / "nodeDefs.json", {name: english(node) for name, node in kept.items() if is_ours(name)})
