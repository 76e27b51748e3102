"""Where a model comes from: what a model that is made of another goes on saying in its metadata."""

from collections.abc import Sequence
from typing import Any

IDENTITY = ("title", "hash_sha256", "flow_hash")  # which model it is
ORIGIN = ("license", "author", "converted_from", "derived_from")
TOGETHER = {"license": " AND ", "author": ", "}  # of several parts, as SPDX joins licences


def derived(info: dict[str, Any]) -> dict[str, str]:
    """Metadata of a model made of one with ``info`` (as :attr:`Model.info` has it).

    Its licence, author and ``converted_from`` stay; ``derived_from`` names it with all of them and its hash, before
    what it was derived from itself.
    """
    kept = {key: info[key] for key in ORIGIN if info.get(key)}
    facts = (info.get(key) for key in ("title", "author", "license", "hash_sha256"))
    name = ", ".join(str(fact) for fact in facts if fact)
    chain = [part for part in (name, info.get("derived_from")) if part]
    return {**kept, "derived_from": "; ".join(chain)} if chain else kept


def combined(infos: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Licence and author of what is made of several parts: everybody's, each once."""
    parts = {
        key: dict.fromkeys(part for info in infos for part in info.get(key, "").split(glue) if part)
        for key, glue in TOGETHER.items()
    }
    return {key: TOGETHER[key].join(names) for key, names in parts.items() if names}
