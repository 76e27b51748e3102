"""A clip in the making: parts of so many frames, each a file of its own that is there as a whole or not at all.

So memory hardly grows with the length, a run that was stopped goes on from the last part, and processes share them.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import remove_partials, replacing, write_text
from .av import pyav, writing
from .clip import Clip
from .colors import to_frame
from .encodings import Encoding, repeatable

FRAMES = 48  # of a part: two seconds of a film
MADE_OF = "made-of.json"


class Parts:
    """The parts of a clip, in a hidden folder beside the file that is to be made of them.

    Attributes:
        folder: where they are.
        stamps: those of each part's frames, in order.
    """

    def __init__(self, clip: Clip, target: Path) -> None:
        self.folder = target.with_name(f".{target.name}.parts")
        self.stamps = [clip.stamps[first : first + FRAMES] for first in range(0, len(clip.stamps), FRAMES)]
        self._all = clip.stamps

    def claim(self, made_of: dict[str, Any]) -> bool:
        """Begin, or go on with the parts that are there; those made of anything else are removed.

        ``made_of`` is what the parts follow from, as JSON data. Returns whether there were others.
        """
        path, text = self.folder / MADE_OF, json.dumps(made_of, indent=1, sort_keys=True)
        with writing(path):
            before = path.read_text(encoding="utf-8") if path.is_file() else None
            if before != text and self.folder.exists():
                shutil.rmtree(self.folder)
            if before != text:
                write_text(path, text)
            remove_partials(self.folder)
        return before not in (None, text)

    def file(self, index: int) -> Path:
        """Where a part is, or is to be."""
        return self.folder / f"{index:06d}.part"

    def around(self, index: int, reach: int) -> tuple[int, ...]:
        """The stamps of a part's frames, and of up to so many before and after them."""
        first = index * FRAMES
        return self._all[max(first - reach, 0) : first + FRAMES + reach]

    @property
    def missing(self) -> list[int]:
        """Those that are not there."""
        return [index for index in range(len(self.stamps)) if not self.file(index).is_file()]

    def remove(self) -> None:
        """Nothing is left of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_part(path: Path, pictures: Iterable[tuple[int, Tensor]], clip: Clip, encoding: Encoding, begin: int) -> None:
    """Compress pictures (1, 3, H, W) in [0, 1] with their stamps; the first is a key frame.

    The stamp ``begin`` is the file's time 0. Without pictures, of a part that is damaged throughout, the file is empty.

    Raises :class:`UserError` if the file cannot be written, and what ``pictures`` raises.
    """
    av = pyav()
    with writing(path), replacing(path) as partial, av.open(str(partial), "w", format=encoding.format) as container:
        partial.touch()  # without a stream, nothing is written
        stream = None
        for stamp, picture in pictures:
            if stream is None:
                options = repeatable(encoding.encoder, dict(encoding.options))
                stream = container.add_stream(encoding.encoder, rate=clip.rate, options=options)
                context, colors = stream.codec_context, clip.colors
                stream.height, stream.width = picture.shape[-2:]
                stream.pix_fmt = encoding.pixel_format
                stream.time_base = context.time_base = clip.tick
                context.sample_aspect_ratio = clip.aspect
                context.max_b_frames = 0
                matrix, levels = colors.known(picture.shape[-2])
                context.color_primaries, context.color_trc = colors.primaries, colors.curve
                context.colorspace, context.color_range = matrix, levels
            frame = to_frame(picture, clip.colors, encoding.pixel_format)
            frame.pts, frame.time_base = stamp - begin, clip.tick
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
