"""What a model is made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...model import Model


@dataclass(frozen=True)
class Source(ABC):
    """The weights of another program's model, as one of FlowMapSR's networks takes them.

    Attributes:
        path: where it is from.
        kind: what it is, in words.
        config: of a network of this shape.
        tensors: by their names behind ``prefix`` in the network.
        changed: those that the source has and that are not as they were.
        new: those that the source does not have.
        dropped: names of what the source has besides.
        prefix: what their names in the network begin with.
        dtype: precision that a model's weights are kept in unless told.
    """

    prefix: ClassVar[str] = ""
    dtype: ClassVar[torch.dtype] = torch.float32

    path: Path
    kind: str
    config: Any
    tensors: dict[str, Tensor]
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @abstractmethod
    def make_model(self, vae: Path | None, text_encoder: Path | None, dtype: torch.dtype) -> Model:
        """The model, see :func:`.convert`; what the source does not have starts the same every time."""

    @property
    def info(self) -> dict[str, Any]:
        """Descriptive metadata of a model made of it."""
        return {"title": f"FlowMapSR from {self.path.stem}", "converted_from": f"{self.path.name}, {self.kind}"}
