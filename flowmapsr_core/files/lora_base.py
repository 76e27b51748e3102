"""Which model a LoRA was trained on: what its metadata say of it, and what that means for another model."""

import json
import logging
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model import Model

log = logging.getLogger("flowmapsr")

BASE = "flowmapsr.base_"
# what the metadata call a hash, and where a model has it; copies in less precision differ in the first alone
HASHES = {"hash": "hash_sha256", "flow_hash": "flow_hash"}


def describe_base(model: Model) -> dict[str, str]:
    """Metadata of a LoRA that was trained on a model: title, hashes and the shape of the network."""
    facts = {"title": "title", **HASHES}
    said = {BASE + name: str(model.info[key]) for name, key in facts.items() if key in model.info}
    return {**said, BASE + "network": json.dumps(model.config()["network"])}


def check_base(path: Path, metadata: dict[str, str], model: Model) -> None:
    """Compare a model with the one that the LoRA ``path`` was trained on, as far as its metadata say.

    Other weights are worth a warning: it may be a copy, or a model made of that one. Raises :class:`UserError` for a
    network of another shape, as what the LoRA changes means something else there.
    """
    said = {key.removeprefix(BASE): text for key, text in metadata.items() if key.startswith(BASE)}
    here = json.loads(json.dumps(model.config()["network"]))
    for key, value in _decoded(said.get("network", "")).items():
        if key in here and value != here[key]:
            raise UserError(
                f"{path} was trained on a network whose {key} is {value}, this one's is {here[key]}; load it with the "
                f"model its author names"
            )
    theirs = {name: said[name] for name in HASHES if said.get(name)}
    if theirs and not any(text == model.info.get(HASHES[name]) for name, text in theirs.items()):
        log.warning(
            "%s was trained on %s, and is added to %s: it may act in another way than its author has seen",
            path, _named(said.get("title"), said.get("hash")),
            _named(model.info.get("title"), model.info.get("hash_sha256")),
        )  # fmt: skip


def _named(title: str | None, hashed: str | None) -> str:
    """A model in words."""
    return " ".join([title or "a model without a title", *([f"({hashed[:10]})"] if hashed else [])])


def _decoded(text: str) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
