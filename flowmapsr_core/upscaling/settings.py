"""What a user asks for, as a model can follow it."""

import logging
from dataclasses import replace

from ..errors import UserError
from ..method.flow import check_realism, check_steps
from ..method.looks import DEFAULT_LOOK, Look, learned_guidance
from ..model import Model

log = logging.getLogger("flowmapsr")

MAX_GUIDANCE = 8.0


def override(look: Look, steps: int | None, guidance: float | None, realism: float | None = None) -> Look:
    """A look with single settings replaced; :class:`UserError` if one is out of its range."""
    changed = look
    if steps is not None:
        check_steps(steps)
        changed = replace(changed, steps=steps)
    if guidance is not None:
        if not 1 <= guidance <= MAX_GUIDANCE:
            raise UserError(f"guidance is {guidance:g}; use a value from 1 (none) to {MAX_GUIDANCE:g}")
        changed = replace(changed, guidance=guidance)
    if realism is not None:
        check_realism(realism)
        changed = replace(changed, realism=realism)
    return changed


def as_trained(model: Model, settings: Look) -> Look:
    """The settings that a model can follow: those of its method, and of :func:`learned`."""
    return model.method.settings(learned(model, settings))


def learned(model: Model, settings: Look) -> Look:
    """Settings without what a model has not learned: guidance, more than one evaluation, or the realism dial."""
    if learned_guidance(model.info.get("training")) is False:
        settings = replace(settings, guidance=1.0)
    if all(look.steps == 1 for look in model.looks.values()):
        settings = replace(settings, steps=1)
    if not has_dial(model):
        settings = replace(settings, realism=0.0)
    return settings


def has_dial(model: Model) -> bool:
    """Whether the realism changes a model's pictures; an upscaler of the community paints one."""
    return any(look.realism for look in model.looks.values())


def warn_of_unlearned(model: Model, settings: Look) -> None:
    """Say so where guidance or steps that the user has asked for are not followed, see :func:`learned`."""
    followed = learned(model, settings)
    if followed.guidance != settings.guidance:
        log.warning("the model has seen no guidance in training: it is evaluated at 1, not at %g", settings.guidance)
    if followed.steps != settings.steps:
        log.warning("the model has learned one evaluation: it is evaluated once, not %d times", settings.steps)


def warn_of_one_picture(model: Model, look: str, realism: float | None, mask: object) -> None:
    """Say so where a model without a dial is asked for another picture than its own; ``mask`` is None without one."""
    asked = realism is not None or mask is not None or look != DEFAULT_LOOK
    if asked and not has_dial(model):
        log.warning("%s paints one picture, whatever the look, the realism and its mask", model.info["title"])


def warn_of_factor(model: Model, scale: float) -> None:
    """Say so where a model does not paint at a factor, but is enlarged to it."""
    if scale > model.most_factor:
        log.warning("the model paints at x%g; to x%g it is enlarged", model.most_factor, scale)
