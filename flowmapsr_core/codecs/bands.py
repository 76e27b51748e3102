"""How much of an image a VAE computes at a time."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Bands:
    """Bands of rows in which a VAE encodes or decodes: the untiled result in less memory, for any height of band.

    Attributes:
        rows: height of a band; on every layer's own grid for a ``VAECodec``, in the image for a ``TinyVAECodec``.
        offload: keep what is not at work in host memory.
        progress: called as ``progress(done, total)`` after every band. Raise from it to cancel.
    """

    rows: int
    offload: bool = False
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError(f"bands have {self.rows} rows; use at least 1")
