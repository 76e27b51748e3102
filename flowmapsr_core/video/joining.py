"""Parts become a clip, with the sound, the subtitles and the titles of its source, packet by packet as they are."""

import heapq
import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import replacing
from ..errors import UserError
from .av import opened, pyav, reading, writing
from .clip import Clip
from .encodings import KNOWN, Encoding
from .light import TOLD, Light

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

log = logging.getLogger("flowmapsr")

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}}  # a page shows it while it loads
# They say how wide a pixel is, whatever the codec; Matroska could, but PyAV does not have it so.
SHAPED = (".mp4", ".mov")
KEPT = ("audio", "subtitle")
OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder"}  # titles that are none


def check_holds(clip: Clip, encoding: Encoding, target: Path) -> None:
    """Raise :class:`UserError` if the file ``target`` cannot hold a clip's sound; say what else is lost."""
    suffix = target.suffix.lower()
    if clip.aspect != 1 and not KNOWN[encoding.name].aspect and suffix not in SHAPED:
        shape = f"{clip.aspect.numerator}:{clip.aspect.denominator}"
        keep = " and ".join(name for name, codec in KNOWN.items() if codec.aspect)
        log.warning(
            "%s has pixels of %s, which %s in %s does not say; %s do, as do %s",
            clip.path, shape, encoding.name, suffix, keep, " and ".join(SHAPED),
        )  # fmt: skip
    if clip.light != Light() and encoding.encoder not in TOLD:
        log.warning("%s says how bright it is to show, which is left out; h264, h265 and av1 keep it", clip.path)
    for kind, codec in not_held(clip, target.suffix):
        what = f"{target}: {target.suffix} does not hold {codec}"
        if kind == "audio":
            raise UserError(f"{what}, which the sound of {clip.path} is in; end the name in .mkv")
        log.warning("%s: subtitles are left out; end the name in .mkv to keep them", what)


def not_held(clip: Clip, suffix: str) -> list[tuple[str, str]]:
    """Sound and subtitles, "audio" or "subtitle" and the codec, that a file with this extension cannot hold."""
    format_ = FORMATS[suffix.lower()]
    with opened(clip.path) as source, pyav().open(io.BytesIO(), "w", format=format_) as made:
        streams = [stream for stream in source.streams if stream.type in KEPT and not _holds(made, stream)]
        contexts = [(stream.type, stream.codec_context) for stream in streams]
        return [(kind, context.name if context is not None else "a codec unknown here") for kind, context in contexts]


def join(files: dict[Path, int], clip: Clip, encoding: Encoding, target: Path, comment: str) -> None:
    """Write the clip.

    Args:
        files: of its parts, in order, and the stamp of the first frame of each.
        clip: the source; what of its sound and subtitles lies in the clip's span is kept, and its titles.
        encoding: that of the parts.
        target: the file to write.
        comment: what it is to say of itself, where the source says nothing.

    Raises:
        UserError: the file cannot be written, or the source not be read any more.
    """
    av, format_ = pyav(), FORMATS[target.suffix.lower()]
    with (
        opened(clip.path) as source,
        opened(next(iter(files))) as first,
        writing(target),
        replacing(target) as partial,
        av.open(str(partial), "w", format=format_, container_options=OPTIONS.get(format_, {})) as made,
    ):
        titles = {name: text for name, text in source.metadata.items() if name.lower() not in OF_THE_FILE}
        made.metadata.update({"comment": comment, **titles})
        picture = made.add_stream_from_template(first.streams.video[0], opaque=True)
        if encoding.tag:
            picture.codec_context.codec_tag = encoding.tag
        picture.codec_context.sample_aspect_ratio = clip.aspect
        kept = {stream: _added(made, stream) for stream in source.streams if _is_kept(made, stream)}
        begin = max(clip.span[0], 0) * clip.tick
        of_parts = _of_parts({file: stamp * clip.tick - begin for file, stamp in files.items()}, picture)
        packets = heapq.merge(of_parts, _of_source(source, kept, clip, begin), key=_time)
        for packet in packets:
            made.mux(packet)


def _holds(made: Any, stream: "Stream") -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.canonical_name in made.supported_codecs


def _is_kept(made: Any, stream: "Stream") -> bool:
    return stream.type in KEPT and _holds(made, stream)


def _added(made: Any, stream: "Stream") -> "Stream":
    new = made.add_stream_from_template(stream, opaque=True)
    new.metadata.update(stream.metadata)
    new.disposition = stream.disposition
    return new


def _is_whole(packet: Any) -> bool:
    """Whether it is one that can be written; the last of a file has no content."""
    return bool(packet.size) and packet.dts is not None and packet.pts is not None


def _time(packet: Any) -> Fraction:
    return packet.dts * packet.time_base


def _of_parts(files: dict[Path, Fraction], picture: "Stream") -> Iterator["Packet"]:
    """Packets of parts, each of which begins at so many seconds."""
    for file, begin in files.items():
        with opened(file) as part:
            for packet in part.demux(part.streams.video[0]):
                if _is_whole(packet):
                    yield _moved(packet, begin, picture)


def _of_source(source: Any, kept: dict["Stream", "Stream"], clip: Clip, begin: Fraction) -> Iterator["Packet"]:
    """Packets of sound and subtitles that show within the clip's span, which begins at so many seconds."""
    if not kept:
        return
    end = None if clip.span[1] is None else clip.span[1] * clip.tick
    with reading(clip.path):
        for packet in source.demux(*kept):
            if _is_whole(packet):
                time = packet.pts * packet.time_base
                if (not begin or time >= begin) and (end is None or time < end):
                    yield _moved(packet, -begin, kept[packet.stream])


def _moved(packet: Any, seconds: Fraction, stream: "Stream") -> "Packet":
    ticks = round(seconds / packet.time_base)
    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
    packet.stream = stream
    return packet
