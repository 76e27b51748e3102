"""A clip's picture: what the file says of it, which frames it has, and those frames."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import UserError
from .av import opened, pyav
from .colors import Colors, to_picture
from .light import Light, light_said_by

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

READABLE = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"}


@dataclass(frozen=True)
class Clip:
    """The frames of a video file that are asked for, and how they show.

    Attributes:
        path: the file.
        size: (height, width) of an upright frame, in pixels.
        turns: quarters, anticlockwise, by which a frame is turned to be upright.
        aspect: width of a pixel over its height, in an upright frame.
        rate: mean frames a second, of the file.
        tick: seconds in a unit of time stamps.
        stamps: when each frame that is asked for shows, in ticks from the file's zero, ascending.
        span: ticks (from, to) of what is asked for; sound and subtitles go by it, too. ``to`` is None for the end.
        bits: of a sample.
        chroma: "420", "422" or "444": of how many pixels a colour is.
        colors: what the samples mean.
        light: how bright they are meant to show, where the clip says so.
    """

    path: Path
    size: tuple[int, int]
    turns: int
    aspect: Fraction
    rate: Fraction
    tick: Fraction
    stamps: tuple[int, ...]
    span: tuple[int, int | None]
    bits: int
    chroma: str
    colors: Colors
    light: Light

    def frames(self, stamps: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The frames of some neighbouring stamps, each with its own: (1, 3, H, W) float32 in [0, 1], upright.

        Those that are damaged are left out. Raises :class:`UserError` if the file can no longer be read.
        """
        wanted = set(stamps)
        with opened(self.path) as container:
            for frame in _decoded(container, picture_of(container, self.path), stamps[0]):
                if frame.pts in wanted:
                    yield frame.pts, to_picture(frame, self.colors, self.turns)
                if frame.pts is not None and frame.pts >= stamps[-1]:
                    break


def read_clip(path: Path, start: float = 0.0, end: float | None = None, every: int = 1) -> Clip:
    """Every ``every``-th frame of a video file from ``start`` until before ``end``, in seconds of the picture.

    Raises :class:`UserError` if the file is none that can be read, has no picture, or none in that time.
    """
    if every < 1:
        raise UserError(f"every is {every}; use 1 for all frames, 2 for every second one, and so on")
    with opened(path) as container:
        stream = picture_of(container, path)
        first = next(_decodable(container, stream), None)
        if first is None or first.pts is None or stream.time_base is None:
            raise UserError(f"{path} is damaged: none of its frames can be decoded; copy it again")
        container.seek(min(first.pts, 0), stream=stream)
        packets = container.demux(stream)
        stamps = sorted({p.pts for p in packets if p.pts is not None and p.size and not p.is_discard})
        begins = stamps[0] if stamps else first.pts
        low = begins + round(start / stream.time_base)
        high = None if end is None else begins + round(end / stream.time_base)
        asked = [stamp for stamp in stamps if low <= stamp and (high is None or stamp < high)]
        if not asked:
            until = "" if end is None else f" until {end:g} s"
            lasts = float((stamps[-1] - begins) * stream.time_base) if stamps else 0
            raise UserError(f"{path} has no frames from {start:g} s{until}; its last one shows at {lasts:.2f} s")
        turns = round(first.rotation / 90) % 4
        aspect = stream.sample_aspect_ratio or Fraction(1)
        tags = stream.codec_context
        return Clip(
            path,
            (first.width, first.height) if turns % 2 else (first.height, first.width),
            turns,
            1 / aspect if turns % 2 else aspect,
            stream.average_rate or Fraction(25),
            stream.time_base,
            tuple(asked[::every]),
            (low if start > 0 else min(begins, 0), high),
            max(part.bits for part in first.format.components),
            _chroma(first),
            Colors(tags.color_primaries, tags.color_trc, tags.colorspace, tags.color_range),
            light_said_by(first),
        )


def picture_of(container: "InputContainer", path: Path) -> "VideoStream":
    """The first moving picture of a file; :class:`UserError` if there is none."""
    cover = pyav().stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not moving:
        raise UserError(f"{path} has no picture, only {_kinds(container) or 'nothing'}; give a clip")
    if moving[0].codec_context is None:
        raise UserError(f"{path} is in a codec that FFmpeg here does not know; convert it with another program")
    moving[0].thread_type = "AUTO"
    return moving[0]


def _kinds(container: "InputContainer") -> str:
    return " and ".join(sorted({stream.type for stream in container.streams}))


def _decoded(container: "InputContainer", stream: "VideoStream", stamp: int) -> Iterator["VideoFrame"]:
    """Frames from one at or before a stamp on; from the first, where the file's index leads past it."""
    container.seek(stamp, stream=stream)
    frames = _decodable(container, stream)
    frame = next(frames, None)
    if frame is None or frame.pts is None or frame.pts > stamp:
        container.seek(0)
        frames = _decodable(container, stream)
        frame = next(frames, None)
    if frame is not None:
        yield frame
        yield from frames


def _decodable(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """All frames from here on but those that are damaged, as players show them."""
    for packet in container.demux(stream):
        with contextlib.suppress(pyav().error.InvalidDataError):
            yield from packet.decode()


def _chroma(frame: "VideoFrame") -> str:
    """How coarse colours are; RGB counts as "420", in which players expect a clip."""
    parts = frame.format.components
    if frame.format.is_rgb or len(parts) < 3:
        return "420"
    width, height = parts[1].width, parts[1].height
    return "444" if width == frame.width else "422" if height == frame.height else "420"
