"""Looks: named points on the trade-off between fidelity and realism, and who can follow them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Look:
    """Sampling settings.

    Attributes:
        steps: network evaluations, a power of two.
        guidance: guidance scale; 1 is none.
        lora_scale: what the strength of every LoRA is multiplied by; 0 leaves them out.
        realism: from 0, the posterior mean (the least-squares estimate), to 1, a sample; see :func:`.flow.sample`.
    """

    steps: int
    guidance: float
    lora_scale: float
    realism: float = 1.0


DEFAULT_LORA_SCALE = 1.5  # strength of a LoRA, 1 as it was trained

DEFAULT_LOOK = "balanced"
Looks = Mapping[str, Look]  # by name

LOOKS = {  # of models that have none of their own
    "faithful": Look(steps=1, guidance=1.0, lora_scale=0.0, realism=0.0),
    "balanced": Look(steps=2, guidance=2.0, lora_scale=1.0),
    "vivid": Look(steps=4, guidance=3.0, lora_scale=4 / 3),
}


def find_look(name: str, looks: Looks = LOOKS) -> Look:
    """A look by name; :class:`UserError` if there is none."""
    if name not in looks:
        raise UserError(f"there is no look {name!r}; choose one of {', '.join(looks)}")
    return looks[name]


def looks_with(section: dict[str, dict[str, Any]]) -> Looks:
    """LOOKS with what a checkpoint's section ``looks`` changes: settings by the looks' names.

    Raises ``ValueError`` naming what is wrong with it.
    """
    for name, settings in section.items():
        if name not in LOOKS:
            raise ValueError(f"looks.{name}: there is none but {', '.join(LOOKS)}")
        unknown = settings.keys() - {field.name for field in fields(Look)}
        if unknown:
            raise ValueError(f"unknown key looks.{name}.{sorted(unknown)[0]}")
    return {name: replace(look, **section.get(name, {})) for name, look in LOOKS.items()}


def changes(looks: Looks) -> dict[str, dict[str, Any]]:
    """What :func:`looks_with` makes these looks of."""
    before = {name: asdict(look) for name, look in LOOKS.items()}
    changed = {
        name: {key: value for key, value in asdict(look).items() if value != before[name][key]}
        for name, look in looks.items()
    }
    return {name: settings for name, settings in changed.items() if settings}


def learned_guidance(training: object) -> bool | None:
    """Whether a network has seen guidance scales other than 1, by the summary of its training in a checkpoint.

    None if that does not say so. A guided stage whose scales are "hidden" or "fixed" shows the network 1 only.
    """
    match training:
        case {"learned_guidance": bool(learned)}:
            return learned
        case {"guidance": mode, "stages": [*stages]}:
            kinds = [stage.get("kind") for stage in stages if isinstance(stage, dict)]
            return mode == "input" and "guided" in kinds
    return None
