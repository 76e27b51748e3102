"""A teacher: any upscaler of the community, whose picture of the LR image is the target."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.files.upscaler_file import load_upscaler
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.upscaling.host import TorchHost

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

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


class Upscaler:
    """A frozen upscaler on a device, computing in bfloat16 where that does so natively.

    Raises :class:`UserError` if the file holds no super-resolution model from RGB to RGB.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        model = load_upscaler(path)
        if model is None:
            raise UserError(f"teacher.upscaler: spandrel knows no upscaler like {path}")
        kind = f"teacher.upscaler: {path} holds a {model.architecture.name}"
        check(
            model.purpose == "SR" and model.scale > 1, f"{kind} that does not enlarge photographs; give one that does"
        )
        channels = (model.input_channels, model.output_channels)
        check(channels == (3, 3), f"{kind} from {channels[0]} to {channels[1]} channels; give one from RGB to RGB")
        self.model, self.device = cast("ImageModelDescriptor", model.float().to(device)), device
        model.model.requires_grad_(False).eval()
        supported = (torch.bfloat16, torch.float32) if model.supports_bfloat16 else (torch.float32,)
        self.bf16 = TorchHost(device).compute_dtype(supported) is torch.bfloat16
        try:  # sizes are left to spandrel, which pads
            found = self._enlarge(torch.full((1, 3, 7, 9), 0.5, device=device)).shape
        except Exception as error:  # every architecture has errors of its own
            reason = str(error).partition("\n")[0]
            raise UserError(f"{kind} that cannot enlarge a picture of 9x7 pixels ({reason}); give another") from error
        check(found == (1, 3, 7 * model.scale, 9 * model.scale), f"{kind} that gives sizes of its own; give another")

    def __call__(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (B, 3, *size) of LR images (B, 3, h, w), both in [0, 1], in the 256 steps of a picture file.

        One after another: a picture is the same whatever else is in a batch, and spandrel vouches for no more.
        """
        return torch.cat([self._picture(image, size) for image in lr.split(1)])

    def of_groups(self, lrs: list[Tensor], rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (n, 3, *size) of those n of a micro-batch's LR images that ``rows`` (B,) picks, n above 0.

        ``lrs`` are the images of each group, (B / groups, 3, h, w).
        """
        parts = zip(lrs, rows.chunk(len(lrs)), strict=True)
        return torch.cat([self(lr[part], size) for lr, part in parts if part.any()])

    def _picture(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        picture = self._enlarge(image)
        while picture.shape[-2] < size[0] or picture.shape[-1] < size[1]:
            # Again, from no more pixels than make twice the size: from all of them the result is as sharp, at up to
            # four times the work.
            enough = (math.ceil(2 * length / self.model.scale) for length in size)
            height, width = (min(pair) for pair in zip(enough, picture.shape[-2:], strict=True))
            picture = self._enlarge(resize(picture, (height, width)).clamp(0, 1))
        return (resize(picture, size).clamp(0, 1) * 255).round() / 255

    def _enlarge(self, image: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(image).float()
