"""A teacher: any upscaler of the community, or a model of ours, whose picture of the LR image is the target."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.files.checkpoint import load_model
from ...flowmapsr_core.files.safetensors_file import is_checkpoint_file
from ...flowmapsr_core.files.sources import find_model
from ...flowmapsr_core.images.degradation import PRESETS
from ...flowmapsr_core.images.eight_bit import eight_bit
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.upscaling.community import CommunityUpscaler
from ...flowmapsr_core.upscaling.host import TorchHost, find_dtype
from ...flowmapsr_core.upscaling.pipeline import MAX_SCALE, upscale
from .pairs import Small

Paint = Callable[[Tensor, tuple[int, int]], Tensor]  # LR images (B, 3, h, w) to pictures (B, 3, *size), all in [0, 1]

OF = ("all", "jumps")
DISTANCES = ("hr", "picture")


@dataclass(frozen=True)
class Teacher:
    """An upscaler that gives targets in place of the HR crops. Negative samples keep theirs.

    Discriminators and distances of pictures go on with the HR crops unless told otherwise: by them a student may leave
    its teacher.

    Attributes:
        upscaler: file of any super-resolution model that spandrel loads, ``.safetensors`` or a ``.pth`` that holds
            weights alone; or a FlowMapSR model as ``start_from`` names it, whose look ``vivid`` is the picture;
            empty for no teacher.
        by_preset: others in its place, where a preset of ``degrade.presets`` made the LR image. So a model may keep to
            its own pictures where they are good, and learn another's where they are not.
        of: "all": it gives every sample its target. "jumps": only those that are jumps, in the stages of objective
            "straight", while flow matching goes on with HR: its posterior mean is the faithful end of the dial, and
            one jump to time 0 the teacher's picture. Of a jump to s the target is s of HR and 1 - s of the picture, so
            the dial between its ends paints their blend, in one evaluation.
        distances: what the distances of pictures compare taught samples with. "hr": the HR crop. What LR does not tell
            of it, a small network answers with a mean, and the mean of features looks like canvas. "picture": the
            teacher's, which follows from LR, so that it can be matched.
        judged: what the discriminator takes for real, "hr" or "picture". Of pictures it sees taught samples only, and a
            student gets its teacher's sharpness where its squared error would blur it (adversarial distillation
            against a teacher's images, arXiv 2403.12015).
        steps: draw the pairs of so many steps, then the same ones again; 0 for new pairs at every step.
        cache: folder with the pictures for these pairs, which ``python -m flowmapsr.trainer.teach`` fills; empty to
            ask the teacher at every step.
    """

    upscaler: str = ""
    by_preset: dict[str, str] = field(default_factory=dict)
    of: str = "all"
    distances: str = "hr"
    judged: str = "hr"
    steps: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        check(self.of in OF, f"teacher.of: {self.of!r} is none of {', '.join(OF)}")
        known = ", ".join(DISTANCES)
        check(self.distances in DISTANCES, f"teacher.distances: {self.distances!r} is none of {known}")
        check(self.judged in DISTANCES, f"teacher.judged: {self.judged!r} is none of {known}")
        check(self.steps >= 0, "teacher.steps must be 0 or more")
        for name in self.by_preset:
            check(name in PRESETS, f"teacher.by_preset: {name!r} is none of {', '.join(PRESETS)}")
        plain = (setting for setting in fields(self) if setting.name != "by_preset")
        given = self.by_preset or any(getattr(self, setting.name) != setting.default for setting in plain)
        check(bool(self.upscaler) or not given, "teacher.upscaler must name an upscaler's file, or a model")

    def share_of_hr(self, s: Tensor) -> Tensor:
        """How much of HR is in the targets of taught samples with these times s (B,); the rest is the picture."""
        return s if self.of == "jumps" else torch.zeros_like(s)


def teacher_file(upscaler: str, key: str) -> Path:
    """The file of an upscaler or model that a recipe's key names. Raises :class:`UserError` if there is none."""
    path = find_model(Path(upscaler).expanduser())
    check(path.is_file(), f"{key}: {path}: no such file")
    return path


class Upscaler:
    """The teacher at work. Raises :class:`UserError` if the file holds no super-resolution model from RGB to RGB."""

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self.paint = _painter(teacher.upscaler, "teacher.upscaler", device)
        others = teacher.by_preset.items()
        self.by_preset = {preset: _painter(name, "teacher.by_preset", device) for preset, name in others}

    def __call__(self, small: Small, size: tuple[int, int]) -> Tensor:
        """Pictures (B, 3, *size) in [0, 1] of LR images, in the 256 steps of a picture file."""
        return self.by_preset.get(small.preset, self.paint)(small.images, size)

    def of_groups(self, groups: list[Small], rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (n, 3, *size) of those n of a micro-batch's LR images that ``rows`` (B,) picks, n above 0."""
        parts = zip(groups, rows.chunk(len(groups)), strict=True)
        return torch.cat([self(Small(preset, lr[part]), size) for (preset, lr), part in parts if part.any()])


def _painter(upscaler: str, key: str, device: torch.device) -> Paint:
    path = teacher_file(upscaler, key)
    try:
        return (_vivid if is_checkpoint_file(path) else CommunityUpscaler)(path, device)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _vivid(path: Path, device: torch.device) -> Paint:
    """What :class:`CommunityUpscaler` is for a model of ours; what it does not enlarge so far is resized."""
    model = load_model(path, device=device, dtype=find_dtype("auto", TorchHost(device)))

    def paint(lr: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = (min(wanted, MAX_SCALE * side) for wanted, side in zip(size, lr.shape[-2:], strict=True))
        return eight_bit(resize(upscale(model, lr, size=(height, width), look="vivid"), size).clamp(0, 1))

    return paint
