"""What a model is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UserError
from ...networks import UNetConfig


@dataclass(frozen=True)
class Source:
    """The weights of another model, as :class:`UNet` takes them.

    Attributes:
        path: where it is from.
        kind: what it is, in words.
        config: of a :class:`UNet` of this shape.
        tensors: by name in ``UNet.unet``; read from the disk when they are used.
        changed: those that the source has and that are not as they were.
        new: those that the source does not have.
        dropped: names of what the source has besides.
    """

    path: Path
    kind: str
    config: UNetConfig
    tensors: dict[str, Tensor]
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def info(self) -> dict[str, Any]:
        """Descriptive metadata of a model made of it."""
        return {"title": f"FlowMapSR from {self.path.stem}", "converted_from": f"{self.path.name}, {self.kind}"}


def check_channels(path: Path, tensors: dict[str, Tensor]) -> None:
    """:class:`UserError` if a UNet takes more than a latent, as those for inpainting and with image conditions do."""
    taken, given = tensors["conv_in.weight"].shape[1], tensors["conv_out.weight"].shape[0]
    if taken != given:
        raise UserError(f"{path} holds a UNet that takes {taken} channels and gives {given}; FlowMapSR takes no more")
