"""What a record says of how a picture was made, and the command that makes the picture again of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, check
from ..files.safetensors_file import read_metadata
from ..files.sources import SHIPPED
from ..images.record import Record
from ..method.looks import Look
from ..names import DTYPES

MODEL_KEYS = {"model": "title", "hash": "hash_sha256"}  # what a record calls them, and a model's metadata
FOLLOWED = ("steps", "guidance", "realism")  # by models that paint more than one picture
SETTINGS = ("seed", "color", "color_strength", "dtype")


def settings_record(
    info: Mapping[str, Any],
    file: str,
    settings: Look | None,
    *,
    seed: int,
    color: str,
    color_strength: float,
    loras: Mapping[str, float],
    dtype: torch.dtype | str,
) -> Record:
    """What a picture says of the model and the settings that it was made with, as they were followed.

    Args:
        info: as :attr:`..model.Model.info` has it.
        file: name of the model's file, or of the model where it is shipped or on the Hub.
        settings: as the model can follow them; None where they change nothing.
        seed, color, color_strength: as in :func:`.pipeline.upscale`.
        loras: strength of each LoRA as it was applied, by the name of its file.
        dtype: of the network's weights.
    """
    record: Record = {name: info[key] for name, key in MODEL_KEYS.items() if key in info}
    record["model_file"] = file
    if settings is not None:
        record |= {"steps": settings.steps, "guidance": settings.guidance, "realism": settings.realism}
    record |= {"seed": seed, "color": color, "color_strength": color_strength}
    if loras:
        record["loras"] = dict(loras)
    return {**record, "dtype": str(dtype).removeprefix("torch.")}


def remake_command(record: Record, picture: Path) -> list[str]:
    """The command that makes a picture again of the photograph, word by word.

    Files are named without their folders, which no record knows. Raises :class:`UserError` saying why there is no such
    command.
    """
    check(all(key in record for key in (*SETTINGS, "to")), "the picture does not say all of its settings")
    check(
        record.get("realism_mask") is not True,
        "its realism mask was in no file; a PNG or WebP dropped on ComfyUI's page opens its workflow",
    )
    check(record["dtype"] in DTYPES, f"the command does not keep weights in {record['dtype']}")
    if others := record.get("through"):
        raise UserError(f"it went through nodes that the command does not know: {', '.join(others)}")
    again = picture.with_stem(picture.stem + "-again").name
    words = ["flowmapsr", "upscale", record.get("source", "PHOTOGRAPH"), "--output", again, "--size", record["to"]]
    words += ["--model", _model(record)]
    if "vae" in record:
        words += ["--vae", record["vae"]]
    for key in (*(key for key in FOLLOWED if key in record), *SETTINGS):
        words += [f"--{key.replace('_', '-')}", f"{record[key]}"]
    for file, scale in record.get("loras", {}).items():
        words += ["--lora", file, "--lora-scale", f"{scale}"]
    if "wrap" in record:
        words += ["--wrap", record["wrap"]]
    if "shrunk" in record:
        words.append("--auto")
    if "realism_mask" in record:
        words += ["--realism-mask", record["realism_mask"]]
    if "prompt" in record:
        words += ["--prompt", record["prompt"], "--text-encoder", "FOLDER"]
    return words


def _model(record: Record) -> str:
    """What ``--model`` takes: one of those that are shipped by its hash, any other by the name of its file."""
    for name, path in SHIPPED.items():
        if read_metadata(path)[0].get("modelspec.hash_sha256") == record.get("hash"):
            return name
    return record.get("model_file", "MODEL")
