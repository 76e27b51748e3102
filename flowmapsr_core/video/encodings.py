"""How a clip is compressed: codecs by name, and what each is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import UserError
from ..names import CODECS
from .av import pyav
from .clip import Clip
from .light import with_parameters

H264_BITS = 8  # what players decode of it; clips of more bits become H.265


@dataclass(frozen=True)
class Codec:
    """A codec.

    Attributes:
        encoders: FFmpeg's names of what compresses, the best first.
        containers: extensions of the files that hold it.
        quality: range of its own measure of quality, the best first, and in the middle what is taken unless told; empty
            where nothing is lost.
        option: what FFmpeg calls that measure.
        options: what else the encoder is told.
        format: FFmpeg's name of what holds a part of a clip, see :mod:`.parts`: it has any unit of time.
        aspect: whether its stream says how wide a pixel is; else what holds the stream has to.
    """

    encoders: tuple[str, ...]
    containers: tuple[str, ...]
    quality: tuple[int, int, int] | None
    option: str = "crf"
    options: dict[str, str] = field(default_factory=dict)
    format: str = "nut"
    aspect: bool = False


# Frames are coded in the order in which they show, so that time stamps go on from part to part of a clip. H.264 looks
# ten frames ahead, not forty: of 3840x2160, each takes 22 MiB.
KNOWN = {
    "h264": Codec(
        ("libx264",), (".mp4", ".mov", ".mkv"), (0, 17, 51),
        options={"preset": "medium", "bf": "0", "rc-lookahead": "10"}, aspect=True,
    ),
    "h265": Codec(
        ("libx265",), (".mp4", ".mov", ".mkv"), (0, 20, 51),
        options={"preset": "medium", "x265-params": "bframes=0:log-level=error"}, aspect=True,
    ),
    "av1": Codec(("libsvtav1", "libaom-av1"), (".mp4", ".mkv", ".webm"), (1, 25, 63)),
    "prores": Codec(("prores_ks",), (".mov", ".mkv"), (5, 3, 0), option="profile", format="mov"),
    "ffv1": Codec(("ffv1",), (".mkv",), None, options={"level": "3", "slicecrc": "1"}),
}  # fmt: skip
assert tuple(KNOWN) == CODECS
WRITABLE = (".mp4", ".mov", ".mkv", ".webm")


@dataclass(frozen=True)
class Encoding:
    """An encoder that is there, and what it is told.

    Attributes:
        name: the codec's, one of KNOWN.
        encoder: FFmpeg's name.
        pixel_format: FFmpeg's name of what it is given.
        options: what it is told.
        format: what holds a part of a clip.
        tag: the four letters that say what it is in an MP4; empty for FFmpeg's own choice.
    """

    name: str
    encoder: str
    pixel_format: str
    options: dict[str, str]
    format: str
    tag: str = ""


def choose_encoding(clip: Clip, target: Path, name: str | None = None, quality: int | None = None) -> Encoding:
    """How a clip is to be compressed for the file ``target``.

    Args:
        clip: 8 bits stay 8, more become 10; colours are not made coarser than they are, but for H.264 and AV1. What it
            says of light goes to encoders that can say it.
        target: its extension says what holds the clip.
        name: one of KNOWN; by default H.264 for 8 bits, H.265 for more, and AV1 in a ``.webm``.
        quality: the codec's own number: CRF (less is better) of H.264, H.265 and AV1, the profile of ProRes from 0
            (proxy) to 5 (4444 XQ).

    Raises:
        UserError: the file cannot hold the codec, the quality is out of its range, or FFmpeg here has no such encoder.
    """
    suffix = target.suffix.lower()
    name = name or ("av1" if suffix == ".webm" else "h264" if clip.bits <= H264_BITS else "h265")
    codec = KNOWN[name]
    if suffix not in codec.containers:
        raise UserError(f"{target}: {suffix} does not hold {name}; end the name in {', '.join(codec.containers)}")
    options = dict(codec.options)
    if codec.quality:
        best, usual, worst = codec.quality
        chosen = usual if quality is None else quality
        if not min(best, worst) <= chosen <= max(best, worst):
            raise UserError(f"quality is {chosen}; {name} takes {best} (best) to {worst}")
        options[codec.option] = str(chosen)
    elif quality is not None:
        raise UserError(f"{name} loses nothing: leave out the quality")
    av = pyav()
    encoder = next((known for known in codec.encoders if known in av.codecs_available), None)
    if encoder is None:
        others = ", ".join(other for other in KNOWN if any(e in av.codecs_available for e in KNOWN[other].encoders))
        raise UserError(f"FFmpeg in this PyAV has no encoder for {name}; choose {others}")
    formats = [known.name for known in av.Codec(encoder, "w").video_formats or ()]
    tag = "hvc1" if name == "h265" and suffix in (".mp4", ".mov") else ""  # which Apple's players want
    options = clip.light.told(encoder, options)
    chroma = "420" if name == "h264" else clip.chroma  # what players decode of it
    return Encoding(name, encoder, _pixel_format(clip.bits, chroma, formats), options, codec.format, tag)


def repeatable(encoder: str, options: dict[str, str]) -> dict[str, str]:
    """An encoder's options with which the same frames always become the same bits, on this machine.

    libx264 does not see to that where it computes in AVX-512: fifteen clips of 48x48, each coded sixty times by what
    KNOWN tells it, came out in 20 versions, and in 15 in AVX2, which is as fast.
    """
    if encoder != "libx264" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return options
    return with_parameters(options, "x264-params", ["asm=avx2"])


def _pixel_format(bits: int, chroma: str, formats: Sequence[str]) -> str:
    """What loses least of a clip's bits and colours, of what an encoder takes."""
    finer = ("420", "422", "444")[("420", "422", "444").index(chroma) :]
    deep = [f"yuv{chroma}p10le" for chroma in (*finer, "422", "420")]
    plain = [f"yuv{chroma}p" for chroma in (*finer, "422", "420")]
    wanted = plain + deep if bits <= 8 else deep + plain
    return next(name for name in wanted if name in formats)
