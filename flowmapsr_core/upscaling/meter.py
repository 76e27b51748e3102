"""One count for everything that is done to a batch: tiles of every step, and bands of the codec."""

from collections.abc import Callable, Iterator

from torch import Tensor

from .host import Host
from .preview import LONGEST_SIDE, Preview
from .tiling import Box

Progress = Callable[[int, int, Callable[[], Tensor]], None]

BAND_TICKS = 10  # what encoding or decoding in bands counts as, in tiles


class Meter:
    """Calls ``progress(done, total, preview)``; ``preview()`` is the picture as it stands, (1, 3, h, w) in [0, 1].

    Attributes:
        progress: None if nobody looks.
        images: how many are still to do, the current one included.
        host: asked after every tile and band whether the user has cancelled.
        done, total: tiles of all images, and bands as a share of :data:`BAND_TICKS`.
    """

    def __init__(self, progress: Progress | None, images: int, host: Host) -> None:
        self.progress = progress
        self.images = images
        self.host = host
        self.done = self.total = self.finished = 0
        self.preview: Preview | None = None
        self.picture: Callable[[], Tensor]

    def begin(self, ticks: int, picture: Tensor) -> None:
        """Begin an image, or begin it again; it takes so many ticks, as will the others.

        ``picture`` (1, 3, H, W) is shown until there is a preview.
        """
        self.done = self.finished
        self.total = self.finished + ticks * self.images
        every = -(-max(picture.shape[-2:]) // LONGEST_SIDE)
        self.preview, self.picture = None, lambda: picture[..., ::every, ::every]

    def finish(self) -> None:
        """The image is done."""
        self.finished = self.done
        self.images -= 1

    def show(self, preview: Preview) -> None:
        """From now on, paste tiles on this preview."""
        self.preview, self.picture = preview, preview.image

    def on_tile(self, box: Box, x: Tensor, velocity: Tensor, t: Tensor) -> None:
        """Count a tile; raises what the callback raises to cancel."""
        if self.preview is not None:
            self.preview.on_tile(box, x, velocity, t)
        self.reach(self.done + 1)

    def bands(self) -> Callable[[int, int], None]:
        """A callback ``(done, total)`` for one run of the codec."""
        before = self.done
        return lambda done, total: self.reach(before + BAND_TICKS * done // total)

    def reach(self, done: int) -> None:
        """Report that so much is done."""
        self.done = done
        self.host.check_cancelled()
        if self.progress is not None:
            self.progress(done, self.total, self.picture)


def in_turn(progress: Progress | None, runs: int) -> Iterator[Progress | None]:
    """What so many runs call, one after another, so that ``progress`` sees one count for all of them."""
    before = 0
    for left in range(runs, 0, -1):
        ticks = 0

        def count(done: int, total: int, preview: Callable[[], Tensor], before: int = before, left: int = left) -> None:
            nonlocal ticks
            ticks = total
            if progress is not None:
                progress(before + done, before + total * left, preview)

        yield count
        before += ticks
