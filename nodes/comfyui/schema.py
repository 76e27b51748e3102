"""Parts of nodes' definitions: those that only newer versions of ComfyUI know, and a choice that prompts tell of."""

from dataclasses import fields
from typing import Any, TypeVar

from comfy_api.latest import io

POSTERIOR_MEAN = "posterior mean"  # in place of a number of steps

Widget = TypeVar("Widget")
KNOWN = {field.name for field in fields(io.Schema)}
NEWER = {"search_aliases", "essentials_category"}  # other words for the search; where among the nodes for beginners


def make_schema(**definition: Any) -> io.Schema:
    """An ``io.Schema``, what is newer left out where ComfyUI has no place for it."""
    return io.Schema(**{name: part for name, part in definition.items() if name in KNOWN or name not in NEWER})


def advanced(widget: Widget) -> Widget:
    """Mark an input as advanced: the page hides it until it is asked to show such inputs.

    The mark goes among the options that every version passes on unread; an argument exists in newer ones only.
    """
    widget.extra_dict["advanced"] = True
    return widget
