"""A teacher: any upscaler of the community, whose picture of the LR image is the target."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.upscaling.community import CommunityUpscaler

OF = ("all", "jumps")


@dataclass(frozen=True)
class Teacher:
    """An upscaler that gives targets in place of the HR crops. Negative samples keep theirs.

    Distances of pictures and discriminators go on with the HR crops: by them a student may leave its teacher.

    Attributes:
        upscaler: file of any super-resolution model that spandrel loads, ``.safetensors`` or a ``.pth`` that holds
            weights alone; empty for no teacher.
        of: "all": it gives every sample its target. "jumps": only those that are jumps, in the stages of objective
            "straight", while flow matching goes on with HR: its posterior mean is the faithful end of the dial, and
            one jump to time 0 the teacher's picture. Of a jump to s the target is s of HR and 1 - s of the picture, so
            the dial between its ends paints their blend, in one evaluation.
        steps: draw the pairs of so many steps, then the same ones again; 0 for new pairs at every step.
        cache: folder with the pictures for these pairs, which ``python -m flowmapsr.trainer.teach`` fills; empty to
            ask the teacher at every step.
    """

    upscaler: str = ""
    of: str = "all"
    steps: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        check(self.of in OF, f"teacher.of: {self.of!r} is none of {', '.join(OF)}")
        check(self.steps >= 0, "teacher.steps must be 0 or more")
        named = bool(self.upscaler) or (self.of, self.steps, self.cache) == ("all", 0, "")
        check(named, "teacher.upscaler must name the file of an upscaler")

    def share_of_hr(self, s: Tensor) -> Tensor:
        """How much of HR is in the targets of taught samples with these times s (B,); the rest is the picture."""
        return s if self.of == "jumps" else torch.zeros_like(s)


class Upscaler(CommunityUpscaler):
    """The teacher's. Raises :class:`UserError` if the file holds no super-resolution model from RGB to RGB."""

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            super().__init__(path, device)
        except UserError as error:
            raise UserError(f"teacher.upscaler: {error}") from error

    def of_groups(self, lrs: list[Tensor], rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (n, 3, *size) of those n of a micro-batch's LR images that ``rows`` (B,) picks, n above 0.

        ``lrs`` are the images of each group, (B / groups, 3, h, w).
        """
        parts = zip(lrs, rows.chunk(len(lrs)), strict=True)
        return torch.cat([self(lr[part], size) for lr, part in parts if part.any()])
