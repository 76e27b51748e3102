"""Parts of a node's definition that only newer versions of ComfyUI know."""

from dataclasses import fields
from typing import Any, TypeVar

from comfy_api.latest import io

from ...flowmapsr_core.names import WRAPS

Widget = TypeVar("Widget")
NO_WRAP = "none"
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


def wrap_input() -> io.Combo.Input:
    """Which edges of the images meet; :func:`wrap_of` reads it."""
    return io.Combo.Input(
        "wrap",
        options=[NO_WRAP, *WRAPS],
        default=NO_WRAP,
        optional=True,
        tooltip="No seam where opposite edges meet. x: left and right, as in panoramas. y: top and bottom. xy: both.",
    )


def wrap_of(choice: str) -> str:
    """What is chosen in :func:`wrap_input`, as the core knows it."""
    return "" if choice == NO_WRAP else choice
