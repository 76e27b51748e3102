"""ComfyUI's videos, as files that the core reads and writes."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import folder_paths

from ...flowmapsr_core.atomic import replacing
from ...flowmapsr_core.images.record import Record
from ...flowmapsr_core.video.clip import Clip, read_clip
from ...flowmapsr_core.video.encodings import choose_encoding
from ...flowmapsr_core.video.joining import not_held
from ...flowmapsr_core.video.making import Making


def clip_of(video: Any) -> Clip:
    """The frames of a VIDEO that its trimming leaves. One that is no file yet becomes a temporary one."""
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


def making_of(clip: Clip, size: tuple[int, int], record: Record) -> Making:
    """What makes a temporary file of a clip: an MP4, or Matroska if that does not hold its sound.

    Its name follows from all that is in it, so what was cancelled goes on when it is asked for again.
    """
    lost = {kind for kind, _ in not_held(clip, ".mp4")}
    file, stamps = clip.path.stat(), clip.stamps
    made_of = [str(clip.path), file.st_mtime_ns, len(stamps), stamps[0], stamps[-1], size, record]
    target = _temporary(json.dumps(made_of).encode(), ".mkv" if "audio" in lost else ".mp4")
    return Making(clip, choose_encoding(clip, target), target, size, record)


def _temporary(content: bytes, suffix: str) -> Path:
    """Where something of this content is kept until ComfyUI starts again."""
    return Path(folder_paths.get_temp_directory()) / f"flowmapsr-{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
