"""ComfyUI's videos, as files that the core reads and writes."""

import hashlib
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import folder_paths
from comfy_api.latest import InputImpl

from ...flowmapsr_core.atomic import replacing
from ...flowmapsr_core.images.record import Record
from ...flowmapsr_core.video.clip import Clip, read_clip
from ...flowmapsr_core.video.colors import Colors, to_frame
from ...flowmapsr_core.video.encodings import choose_encoding
from ...flowmapsr_core.video.joining import not_held
from ...flowmapsr_core.video.making import Making

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # FFmpeg's names, by the number of channels


def clip_of(video: Any) -> Clip:
    """The frames of a VIDEO that its trimming leaves. One of frames in memory becomes a temporary file."""
    if isinstance(video, InputImpl.VideoFromComponents):
        return read_clip(_stored(video.get_components()))
    source = video.get_stream_source()
    if isinstance(source, io.BytesIO):
        content = source.getvalue()
        source = _temporary(content, ".source")
        if not source.exists():
            with replacing(source) as partial:
                partial.write_bytes(content)
    trimmed = getattr(video, "get_active_trim_window", None)  # newer versions
    begin, duration = trimmed() if trimmed else (0.0, 0.0)
    return read_clip(Path(source), begin, begin + duration if duration else None)


def _stored(components: Any) -> Path:
    """A file of frames in 8 bits, without loss, and of their sound in AAC, cut to their length as ComfyUI does it.

    Its name follows from what is in it, so that it is there already when a run is asked for again.
    """
    rate, sound = Fraction(components.frame_rate), components.audio
    content = hashlib.sha256(f"{rate} {sound and sound['sample_rate']}".encode())
    for tensor in (*components.images, *(sound["waveform"] if sound else ())):
        content.update(tensor.contiguous().cpu().numpy())
    path = _temporary(content.digest(), ".source")
    if path.exists():
        return path
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        picture = container.add_stream("ffv1", rate=rate)
        picture.height, picture.width = components.images.shape[1:3]
        picture.pix_fmt = "bgr0"
        voice = container.add_stream("aac", rate=int(sound["sample_rate"])) if sound else None
        for index, image in enumerate(components.images):
            frame = to_frame(image.movedim(-1, 0)[None, :3].float(), Colors(), "bgr0")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if voice:
            wave = sound["waveform"][0].float().cpu().numpy()
            wave = wave if len(wave) in LAYOUTS else wave[:2]
            wave = wave[:, : round(len(components.images) / rate * int(sound["sample_rate"]))]
            frame = av.AudioFrame.from_ndarray(wave.copy(order="C"), format="fltp", layout=LAYOUTS[len(wave)])
            frame.sample_rate, frame.pts = int(sound["sample_rate"]), 0
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def making_of(clip: Clip, size: tuple[int, int], record: Record, temporal: bool) -> Making:
    """What makes a temporary file of a clip: an MP4, or Matroska if that does not hold its sound.

    Its name follows from all that is in it, so what was cancelled goes on when it is asked for again.
    """
    lost = {kind for kind, _ in not_held(clip, ".mp4")}
    file, stamps = clip.path.stat(), clip.stamps
    made_of = [str(clip.path), file.st_mtime_ns, len(stamps), stamps[0], stamps[-1], size, record, temporal]
    target = _temporary(json.dumps(made_of).encode(), ".mkv" if "audio" in lost else ".mp4")
    return Making(clip, choose_encoding(clip, target), target, size, record, temporal)


def _temporary(content: bytes, suffix: str) -> Path:
    """Where something of this content is kept until ComfyUI starts again."""
    return Path(folder_paths.get_temp_directory()) / f"flowmapsr-{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
