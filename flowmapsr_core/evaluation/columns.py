"""Lists of settings, multiplied into the methods of models that a table compares."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..method.looks import LOOKS, find_look
from ..upscaling.settings import override
from .makers import Column

DIAL = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Lists:
    """What is to be compared. Of steps, guidance and realism, those that are given multiply; without any, looks do.

    Attributes:
        models: what loads them.
        looks: by name.
        steps, guidance, realism: those not given are 1.
        lora_scales: strengths of all LoRAs together; empty without LoRAs.
    """

    models: Sequence[str]
    looks: Sequence[str] = ()
    steps: Sequence[int] = ()
    guidance: Sequence[float] = ()
    realism: Sequence[float] = ()
    lora_scales: Sequence[float] = ()


def plan_columns(lists: Lists) -> list[list[Column]]:
    """Columns in groups that share their weights: a model with its LoRAs at one strength.

    Without any list of settings: all looks, and the dial at one step. Where realism is listed there is a blend too.

    Raises :class:`UserError` if a setting is out of its range.
    """
    columns: list[Column] = []
    labels = _labels(lists.models)
    looks, realism = lists.looks, lists.realism
    if not (looks or lists.steps or lists.guidance or realism):
        looks, realism = list(LOOKS), DIAL
    for model in dict.fromkeys(lists.models):
        for scale in lists.lora_scales or [0.0]:
            for name in looks:
                look = find_look(name)
                strength = scale * look.lora_scale
                shown = f"LoRA {scale:g}" if len(lists.lora_scales) > 1 and strength else ""
                columns.append(Column(_joined(labels[model], name, shown), look, model, strength, named=name))
            if lists.steps or lists.guidance or realism:
                label = (labels[model], f"LoRA {scale:g}" if len(lists.lora_scales) > 1 else "")
                columns += _grid(model, label, scale, lists, realism)
    groups: dict[tuple[str, float], list[Column]] = {}
    for column in {column.name: column for column in columns}.values():
        groups.setdefault((column.model, column.lora_scale), []).append(column)
    return list(groups.values())


def _grid(model: str, label: tuple[str, str], scale: float, lists: Lists, realism: Sequence[float]) -> list[Column]:
    """Steps by guidance by realism, and a blend for each dial."""
    columns = []
    for steps, guidance in itertools.product(lists.steps or [1], lists.guidance or [1.0]):
        strong = f"guidance {guidance:g}" if lists.guidance else ""
        several = f"{steps} step{'s' * (steps > 1)}"
        dial = _joined(label[0], several, strong, label[1])
        for point in realism or [1.0]:
            shown = f"realism {point:g}" if realism else ""
            look = override(LOOKS["balanced"], steps, guidance, point)
            name = _joined(label[0], several, strong, shown, label[1])
            columns.append(Column(name, look, model, scale, (dial,) if realism else ()))
        if realism:
            name = _joined(label[0], several, strong, "blend of realism 0 and 1", label[1])
            look = override(LOOKS["balanced"], steps, guidance)
            columns.append(Column(name, look, model, scale, blend=True))
    return columns


def _labels(models: Sequence[str]) -> dict[str, str]:
    """What tells models apart: nothing where there is one, else the names of their files, or all that was given."""
    given = list(dict.fromkeys(models))
    if len(given) == 1:
        return {given[0]: ""}
    stems = [Path(model).stem for model in given]
    return dict(zip(given, stems if len(set(stems)) == len(stems) else given, strict=True))


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def check_apart(names: Sequence[str]) -> None:
    """Raise :class:`UserError` if two methods have one name."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two methods are called {name!r}; rename the file of one")
