"""Parts of a node's definition that only newer versions of ComfyUI know."""

from dataclasses import fields
from typing import Any, TypeVar

from comfy_api.latest import io

Widget = TypeVar("Widget")
KNOWN = {field.name for field in fields(io.Schema)}


def make_schema(*, search_aliases: list[str], **definition: Any) -> io.Schema:
    """An ``io.Schema``, its other words for the node search left out where ComfyUI has no place for them."""
    if "search_aliases" in KNOWN:
        definition["search_aliases"] = search_aliases
    return io.Schema(**definition)


def advanced(widget: Widget) -> Widget:
    """Mark an input as advanced: the page hides it until it is asked to show such inputs.

    The mark goes among the options that every version passes on unread; an argument exists in newer ones only.
    """
    widget.extra_dict["advanced"] = True
    return widget
