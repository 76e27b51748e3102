"""What an HDR clip says of the display it was made on, and of how bright it gets: SMPTE ST 2086 and CTA-861.3."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

MASTERING, LEVELS = "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"  # of a frame's side data
STRUCT = struct.Struct("=22i")  # FFmpeg's AVMasteringDisplayMetadata: ten fractions, and whether they are there
# What each encoder takes them by: its own parameters, the names in there, and how many units are 1 of CIE's x and y,
# and 1 cd/m2; None for decimal fractions.
TOLD = {
    "libx264": ("x264-params", "mastering-display", "cll", (50_000, 10_000)),
    "libx265": ("x265-params", "master-display", "max-cll", (50_000, 10_000)),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", None),
}


@dataclass(frozen=True)
class Light:
    """Static metadata of HDR.

    Attributes:
        mastering: of the mastering display, the chromaticities x and y of red, green, blue and white, then its least
            and its greatest luminance in cd/m2; None if the clip does not say.
        levels: the brightest pixel and the brightest frame's mean, in cd/m2; None if the clip does not say.
    """

    mastering: tuple[Fraction, ...] | None = None
    levels: tuple[int, int] | None = None

    def told(self, encoder: str, options: dict[str, str]) -> dict[str, str]:
        """An encoder's options with what it needs to say the same; as they are where it, or the clip, says nothing."""
        if encoder not in TOLD:
            return options
        name, mastering, levels, units = TOLD[encoder]
        parts = []
        if self.mastering:
            parts.append(f"{mastering}={_spelled(self.mastering, units)}")
        if self.levels:
            parts.append("{}={},{}".format(levels, *self.levels))
        return with_parameters(options, name, parts) if parts else options


def with_parameters(options: dict[str, str], name: str, parts: Sequence[str]) -> dict[str, str]:
    """An encoder's options with more of its own parameters, which one option of FFmpeg's, ``name``, has in a row."""
    own = [options[name]] if name in options else []
    return {**options, name: ":".join([*own, *parts])}


def light_said_by(frame: "VideoFrame") -> Light:
    """What a clip's first frame says."""
    mastering, levels = (frame.side_data.get(kind) for kind in (MASTERING, LEVELS))
    numbers = None
    if mastering is not None:
        *parts, has_primaries, has_luminance = STRUCT.unpack(bytes(mastering))
        if has_primaries and has_luminance:
            numbers = tuple(map(Fraction, parts[::2], parts[1::2]))
    return Light(numbers, None if levels is None else struct.unpack("=2I", bytes(levels)))


def _spelled(mastering: tuple[Fraction, ...], units: tuple[int, int] | None) -> str:
    """As x264, x265 and SVT-AV1 read it: green, blue, red, white, then luminance, the greatest first."""
    red, green, blue, white, (least, greatest) = zip(mastering[::2], mastering[1::2], strict=True)
    named = {"G": green, "B": blue, "R": red, "WP": white, "L": (greatest, least)}

    def number(value: Fraction, name: str) -> str:
        return f"{float(value):.5f}" if units is None else str(round(value * units[name == "L"]))

    return "".join(f"{name}({','.join(number(v, name) for v in pair)})" for name, pair in named.items())
