"""Clips for the tests, made on the spot: a photograph panned, with a tone."""

from fractions import Fraction

import av
import numpy as np
import torch
from flowmapsr.flowmapsr_core.video.colors import Colors, to_frame

TICK = Fraction(1, 12800)


def panned(photo, count, size, step=2):
    """Views (1, 3, *size) of a photograph (1, 3, H, W), each so many pixels further to the right."""
    height, width = size
    return [photo[..., :height, step * index : step * index + width] for index in range(count)]


def write_clip(
    path, pictures, *, codec="libx264", pixel_format="yuv420p", colors=None, stamps=None, rate=25, aspect=None,
    rotation=0, sound="aac", subtitles=None, options=None, title="",
):  # fmt: skip
    """A clip of pictures (1, 3, H, W); ``stamps`` in ticks of :data:`TICK`, else at ``rate`` a second."""
    colors = colors or Colors()
    tick = TICK if stamps else Fraction(1, rate)
    stamps = stamps or list(range(len(pictures)))
    with av.open(str(path), "w") as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[-2:]
        stream.pix_fmt, stream.time_base = pixel_format, tick
        context = stream.codec_context
        context.time_base = tick
        context.color_primaries, context.color_trc = colors.primaries, colors.curve
        context.colorspace, context.color_range = colors.matrix, colors.range
        if aspect:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        voice = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for picture, stamp in zip(pictures, stamps, strict=True):
            frame = to_frame(picture, colors, pixel_format)
            frame.pts, frame.time_base = stamp, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice:
            seconds = float((stamps[-1] + 1) * tick)
            wave = np.sin(np.arange(round(48000 * seconds)) * 0.05).astype(np.float32)
            for first in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
                frame.rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
                container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def read_frames(path):
    """Times in seconds, and samples as the decoder gives them, of all frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.pts * frame.time_base for frame in frames], [samples(frame) for frame in frames]


def samples(frame):
    """Of all planes, without what lies between their lines, which may be anything."""
    width = -(-frame.format.components[0].bits // 8)
    return b"".join(
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : width * plane.width].tobytes()
        for plane in frame.planes
    )


def read_packets(path, kind):
    """(time in seconds, bytes) of all packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def decoded(path):
    """Pictures (N, 3, H, W) in [0, 1] of a clip, by PyAV's own conversion."""
    with av.open(str(path)) as container:
        arrays = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
