"""How a picture was made in ComfyUI, read off the prompt: the graph of nodes as it was queued, which saving nodes get.

A prompt has nodes by their ids, each with its ``class_type`` and ``inputs``; an input is a value, or a link: the id of
a node and the number of its output.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths

from ...flowmapsr_core import Model
from ...flowmapsr_core.files.checkpoint import BUILT_IN, load_shapes
from ...flowmapsr_core.images.picture_files import opened
from ...flowmapsr_core.images.record import Record
from ...flowmapsr_core.method.looks import Look, find_look
from ...flowmapsr_core.upscaling.host import find_dtype
from ...flowmapsr_core.upscaling.remake import settings_record
from ...flowmapsr_core.upscaling.settings import as_trained
from .host import ComfyHost
from .loading import FP8
from .model_files import model_path
from .schema import POSTERIOR_MEAN
from .source import file_name
from .wrap import NO_WRAP

Node = dict[str, Any]
Prompt = dict[str, Node]
Line = list[tuple[Node, int]]  # nodes that a picture has passed, last first, and the outputs that it left them by

UPSCALE, SAMPLER, MATCH, LOW_RES = (f"FlowMapSR_{name}" for name in ("Upscale", "Sampler", "MatchColor", "LoadLowRes"))
LOAD_MODEL, LOAD_LORA = "FlowMapSR_LoadModel", "FlowMapSR_LoadLoRA"
LOADERS = (LOW_RES, "LoadImage")
# what the flowmapsr command does as well; other nodes are beyond it
KNOWN = {UPSCALE, SAMPLER, MATCH, *LOADERS, LOAD_MODEL, LOAD_LORA, "FlowMapSR_DecodeTiled"}
KNOWN |= {"VAEDecode", "JoinImageWithAlpha"}
PICTURE = ("image", "images", "samples", "pixels")  # what nodes call the input that a picture comes by
# the inputs of nodes that make pictures, and what may stand in others: there they do not change a picture
MAKERS = {
    UPSCALE: {"image", "factor", "look", "model", "realism_mask", "seed", "wrap"},
    SAMPLER: {"image", "model", "steps", "guidance", "tile", "overlap", "prompt", "vae", "realism", "seed"}
    | {"realism_mask", "wrap"},
}
OFF = (None, False, 0, "", "none", "off")
OPAQUE = 255
SURE = 4  # the command paints smaller pictures at a model's least factor, and shrinks them


def texts(prompt: Prompt | None, more: dict[str, Any] | None) -> dict[str, str]:
    """What ComfyUI's page opens the workflow of when a picture is dropped on it: as core's *Save Image* has it."""
    return {key: json.dumps(value) for key, value in {"prompt": prompt, **(more or {})}.items() if value is not None}


def history(prompt: Prompt, node: str) -> Record:
    """The record of the images that node number ``node`` gets, as far as the prompt tells.

    ``through`` in it lists what keeps the command from making them again.
    """
    line = list(_line(prompt, node))
    kinds = [passed["class_type"] for passed, _ in line]
    through = {kind for kind in kinds if kind not in KNOWN}
    record: Record = {}
    loader = line[-1][0]["inputs"] if line else {}
    if _value(prompt, loader.get("auto")):
        record["shrunk"] = True
    if name := _file_at_the_end(line):
        record["source"] = file_name(name)
    place = next((place for place, kind in enumerate(kinds) if kind in MAKERS), None)
    if place is not None:
        maker, after, before = line[place][0], line[:place], line[place + 1 :]
        through |= _beyond(prompt, maker) | _otherwise(prompt, maker, after, before)
        record |= _settings(prompt, maker, after)
    return {**record, "through": sorted(through)} if through else record


def loaded_file(prompt: Prompt, node: str) -> str | None:
    """Name in ComfyUI's list of the file that the images come from which node number ``node`` gets."""
    return _file_at_the_end(list(_line(prompt, node)))


def _file_at_the_end(line: Line) -> str | None:
    names = [loader["inputs"].get("image") for loader, _ in line[-1:] if loader["class_type"] in LOADERS]
    return next((name for name in names if isinstance(name, str)), None)


def _line(prompt: Prompt, node: str) -> Iterator[tuple[Node, int]]:
    """The line that a picture has come by to a node."""
    while link := next(filter(_is_link, (prompt.get(node, {}).get("inputs", {}).get(name) for name in PICTURE)), None):
        node, slot = link
        if node in prompt:
            yield prompt[node], slot


def _is_link(given: Any) -> bool:
    return isinstance(given, list)


def _value(prompt: Prompt, given: Any) -> Any:
    """The value of an input, also by way of nodes that hold nothing else; None where another node makes it."""
    if not _is_link(given):
        return given
    held = prompt.get(given[0], {}).get("inputs", {})
    return _value(prompt, held["value"]) if list(held) == ["value"] else None


def _beyond(prompt: Prompt, maker: Node) -> set[str]:
    """What a node that makes pictures was given beside what the command can be told."""
    kind, found = maker["class_type"], set()
    for name, given in maker["inputs"].items():
        if _is_link(given) and name not in PICTURE and _value(prompt, given) is None:
            giver = prompt.get(given[0], {}).get("class_type", "")
            found |= set() if giver in KNOWN or name == "realism_mask" else {giver}
        elif name not in MAKERS[kind] and given not in OFF:
            found.add(f"{kind} with {name}")
    return found


def _otherwise(prompt: Prompt, maker: Node, after: Line, before: Line) -> set[str]:
    """Where known nodes stand in another place than the command does their work, or are linked in another way."""
    loader, slot = next((passed for passed in before if passed[0]["class_type"] in LOADERS), (None, None))
    found = {passed["class_type"] for passed, _ in before if passed["class_type"] not in LOADERS}
    wanted = 0 if maker["class_type"] == UPSCALE else 1  # Load Low-Res Image's lr, and its upscaled
    if loader is not None and slot != wanted:
        found.add(f"output {slot} of {loader['class_type']}")
    matching = [passed["inputs"] for passed, _ in after if passed["class_type"] == MATCH]
    if len(matching) > wanted:
        found.add(MATCH)
    for number, output in (inputs["reference"] for inputs in matching):
        if prompt.get(number) is not loader or output != 0:
            found.add(f"{MATCH} to another reference")
    resized = [loader["inputs"]] if loader is not None and maker["class_type"] == SAMPLER else []
    if len({_value(prompt, inputs.get("wrap", NO_WRAP)) for inputs in (maker["inputs"], *matching, *resized)}) > 1:
        found.add("nodes with different wrap")
    if loader is not None and maker["class_type"] == SAMPLER:
        given = {name: _value(prompt, value) for name, value in loader["inputs"].items()}
        if given.get("size_by") != "factor" or not (given.get("factor") or 0) >= SURE:
            found.add(f"{SAMPLER} at what may be a factor below {SURE}")
    return found


def _settings(prompt: Prompt, maker: Node, after: Line) -> Record:
    """The model and the settings of a node that makes pictures; empty where another node gives one of them."""
    given = {name: _value(prompt, value) for name, value in maker["inputs"].items()}
    if "upscale_model" in given:
        return {}
    try:
        name, dtype, loras = _model(prompt, maker["inputs"].get("model"))
        model = load_shapes(model_path(name))
        if maker["class_type"] == UPSCALE:
            look = find_look(given["look"], model.looks)
            color, strength, loras = "lr-residual", 1.0, {file: by * look.lora_scale for file, by in loras.items()}
        else:
            mean = given["steps"] == POSTERIOR_MEAN
            realism = 0.0 if mean else given.get("realism", 1.0)
            look = Look(1 if mean else int(given["steps"]), given["guidance"], 1, realism)
            matched = [passed["inputs"] for passed, _ in after if passed["class_type"] == MATCH]
            color, strength = "none", 1.0
            if matched:
                color, strength = (_value(prompt, matched[0][key]) for key in ("method", "strength"))
        record = settings_record(
            model.info, name, as_trained(model, look), seed=given.get("seed", 0), color=color, color_strength=strength,
            loras={file: by for file, by in loras.items() if by}, dtype=_precision(model, dtype),
        )  # fmt: skip
        if _masks(prompt, maker["inputs"].get("realism_mask")):
            record["realism_mask"] = True
    except (LookupError, TypeError, ValueError, OSError):
        return {}
    if given.get("wrap", NO_WRAP) != NO_WRAP:
        record["wrap"] = given["wrap"]
    if given.get("prompt"):
        record["prompt"] = given["prompt"]
    return record


def _masks(prompt: Prompt, link: Any) -> bool:
    """Whether a mask may keep a look out; that of *Load Image*, inverted, does where the file is transparent."""
    if not _is_link(link):
        return False
    inverted = prompt.get(link[0], {})
    loader = prompt.get(inverted.get("inputs", {}).get("mask", [""])[0], {})
    name = _value(prompt, loader.get("inputs", {}).get("image"))
    kinds = inverted.get("class_type"), loader.get("class_type")
    if kinds != ("InvertMask", "LoadImage") or not isinstance(name, str):
        return True
    with opened(Path(folder_paths.get_annotated_filepath(name)), name) as image:
        return image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < OPAQUE


def _model(prompt: Prompt, link: Any) -> tuple[str, str, dict[str, float]]:
    """Name, weight_dtype and LoRAs of the model behind a link; ``LookupError`` where another node gives it."""
    loras: dict[str, float] = {}
    while link is not None:
        node = prompt[link[0]]
        given = {name: _value(prompt, value) for name, value in node["inputs"].items()}
        if node["class_type"] == LOAD_LORA:
            file = Path(given["lora"]).name
            loras[file] = loras.get(file, 0) + given["scale"]
            link = node["inputs"]["model"]
        elif node["class_type"] == LOAD_MODEL:
            return given["model"], given["weight_dtype"], loras
        else:
            raise LookupError(node["class_type"])
    return BUILT_IN, "auto", loras


def _precision(model: Model, dtype: str) -> str:
    """Precision of the weights by a weight_dtype of *Load FlowMapSR Model*."""
    chosen = dtype if dtype == FP8 else find_dtype(dtype, ComfyHost())
    return str(chosen(model.network.dtypes) if callable(chosen) else chosen)
