"""Clips in a browser: what the command has written plays in Chromium."""

import pytest
import torch
from clips import write_clip
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint

PLAYED = """async () => {
    const video = document.querySelector('video')
    const ended = new Promise((resolve, reject) => {
        video.addEventListener('ended', resolve)
        video.addEventListener('error', () => reject(video.error.message))
    })
    video.muted = true
    await video.play()
    await ended
    const { duration, currentTime, videoWidth, videoHeight } = video
    const { totalVideoFrames } = video.getVideoPlaybackQuality()
    const sound = video.webkitAudioDecodedByteCount
    return { duration, currentTime, videoWidth, videoHeight, totalVideoFrames, sound }
}"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "pixel_format", "sound"),
    [("o.mp4", "yuv420p", "aac"), ("o.mp4", "yuv444p", "aac"), ("o.webm", "yuv420p10le", "libopus")],
)
def test_a_clip_plays_to_its_end(browser, photo, small_model, tmp_path, name, pixel_format, sound):
    """H.264 has no more than a colour for four pixels, whatever its source: few players decode anything else."""
    save_checkpoint(small_model, tmp_path / "small.safetensors")
    views = [torch.roll(photo, -2 * index, dims=-1) for index in range(25)]
    source = write_clip(tmp_path / "a.mkv", views, codec="ffv1", pixel_format=pixel_format, sound=sound)
    made = tmp_path / name
    settings = ["--model", str(tmp_path / "small.safetensors"), "--look", "faithful", "--scale", "2", "--quiet"]
    assert main(["upscale", str(source), "--output", str(made), *settings]) == 0

    if made.suffix == ".mp4":  # its index comes first, so that a page shows it while it loads
        content = made.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")
    page = browser.new_page()
    page.goto(made.as_uri())
    played = page.evaluate(PLAYED)
    page.close()
    assert (played["videoWidth"], played["videoHeight"]) == (244, 180)
    assert played["duration"] == pytest.approx(1, abs=0.1)
    assert played["currentTime"] == pytest.approx(played["duration"], abs=0.05)
    assert played["totalVideoFrames"] == 25
    assert played["sound"] > 0
