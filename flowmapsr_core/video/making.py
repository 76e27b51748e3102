"""A clip enlarged, from its source's frames to a whole file."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..images.record import PROGRAM, Record, in_pixels
from .clip import Clip
from .encodings import Encoding
from .joining import check_holds, join
from .parts import Parts, write_part
from .temporal import REACH, opencv, steadied

log = logging.getLogger("flowmapsr")

Size = tuple[int, int]
Enlarge = Callable[[Tensor, Size], Tensor]  # a frame (1, 3, h, w) in [0, 1] as (1, 3, *size)


class Making:
    """What becomes of a clip: its parts first, which outlast whatever stops a run, then the file.

    Attributes:
        size: (height, width) of its frames, in pixels.
        parts: those that are there, and those to be made.
    """

    def __init__(
        self, clip: Clip, encoding: Encoding, target: Path, size: Size, record: Record, temporal: bool = False
    ) -> None:
        """``size`` gets even, if need be; ``record`` is what else the frames follow from, and goes into the file.

        With ``temporal`` neighbouring frames steady one another, see :mod:`.temporal`; :class:`UserError` if it lacks
        its library.
        """
        self.clip, self.encoding, self.target, self.size = clip, encoding, target, _even(size)
        self.record: Record = {**record, "from": in_pixels(clip.size), "to": in_pixels(self.size)}
        self.temporal = temporal
        if temporal:
            opencv()
            self.record["temporal"] = True
        self.parts = Parts(clip, target)

    @property
    def made_of(self) -> dict[str, Any]:
        """All that the parts follow from, as JSON data."""
        file, stamps = self.clip.path.stat(), self.clip.stamps
        return {
            "source": [self.clip.path.name, file.st_size, file.st_mtime_ns],
            "frames": [len(stamps), stamps[0], stamps[-1]],
            "encoding": asdict(self.encoding),
            "record": self.record,
        }

    def begin(self) -> None:
        """Take possession of the parts; :class:`UserError` if the file cannot hold the clip's sound."""
        check_holds(self.clip, self.encoding, self.target)
        if self.parts.claim(self.made_of):
            log.warning("%s: what an earlier run has made was for other settings, and is made anew", self.target)

    def run(self, parts: Iterable[int], enlarge: Enlarge, advance: Callable[[Tensor], object]) -> None:
        """Make some parts; ``advance`` is called with each frame that is done."""
        for index in parts:
            frames = self._frames(index, enlarge, advance)
            write_part(self.parts.file(index), frames, self.clip, self.encoding, self.parts.stamps[index][0])

    def finish(self) -> None:
        """Join the parts, which are not needed any more then; :class:`UserError` if no frame could be decoded."""
        files = {self.parts.file(index): stamps[0] for index, stamps in enumerate(self.parts.stamps)}
        files = {file: stamp for file, stamp in files.items() if file.stat().st_size}
        if not files:
            self.parts.remove()
            raise UserError(f"{self.clip.path} is damaged: none of the frames asked for can be decoded")
        join(files, self.clip, self.encoding, self.target, PROGRAM + json.dumps(self.record))
        self.parts.remove()

    def _frames(
        self, index: int, enlarge: Enlarge, advance: Callable[[Tensor], object]
    ) -> Iterator[tuple[int, Tensor]]:
        wanted = self.parts.stamps[index]
        stamps = self.parts.around(index, REACH) if self.temporal else wanted
        enlarged = ((stamp, enlarge(picture, self.size)) for stamp, picture in self.clip.frames(stamps))
        made = 0
        for stamp, frame in steadied(enlarged, wanted) if self.temporal else enlarged:
            yield stamp, frame
            advance(frame)
            made += 1
        if made < len(wanted):
            log.warning("%s: %d frames cannot be decoded and are left out", self.clip.path, len(wanted) - made)


def _even(size: Size) -> Size:
    """A size of whole squares of 2 x 2 pixels, each of which has one colour in most clips: a pixel more, if need be."""
    height, width = (side + side % 2 for side in size)
    return height, width
