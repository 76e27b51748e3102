"""Clips: colours, reading, parts, and the command, on clips that are made on the spot."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from clips import TICK, decoded, panned, read_frames, read_packets, write_clip
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.flowmapsr_core.video import parts
from flowmapsr.flowmapsr_core.video.clip import read_clip
from flowmapsr.flowmapsr_core.video.colors import FULL, LIMITED, Colors, to_frame, to_picture
from flowmapsr.flowmapsr_core.video.encodings import choose_encoding, repeatable
from flowmapsr.flowmapsr_core.video.light import Light

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # Kr, Kb of a matrix
PQ, HLG = (Colors(primaries=9, curve=curve, matrix=9, range=LIMITED) for curve in (16, 18))
# Matroska holds the sources: now and then FFmpeg fails to encode this straight into an MP4, which no part of a clip is.
LIGHT = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
DISPLAY = ("0.68", "0.32", "0.265", "0.69", "0.15", "0.06", "0.3127", "0.329", "0.005", "1000")
MASTERED = Light(tuple(map(Fraction, DISPLAY)), (1000, 400))  # the same: red, green, blue and white, then cd/m2


@pytest.fixture
def model(small_model, tmp_path):
    save_checkpoint(small_model, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def upscale(model, tmp_path):
    """Runs the command on a clip; returns its exit status and the clip that it makes."""

    def run(source, name="out.mp4", *arguments):
        output = tmp_path / name
        options = ["--model", str(model), "--look", "faithful", "--scale", "2", "--quiet", *arguments]
        return main(["upscale", str(source), "--output", str(output), *options]), output

    return run


def planes(frame):
    """First sample of each plane of 10 bits."""
    return [np.frombuffer(plane, np.uint16)[0] for plane in frame.planes]


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("levels", [LIMITED, FULL])
def test_samples_are_those_of_the_matrix_and_the_range(matrix, levels):
    kr, kb = WEIGHTS[matrix]
    for color in ((1, 0, 0), (0, 1, 0), (0.2, 0.4, 0.9)):
        picture = torch.tensor(color, dtype=torch.float32)[None, :, None, None].expand(1, 3, 16, 16)
        luma = kr * color[0] + (1 - kr - kb) * color[1] + kb * color[2]
        blue, red = (color[2] - luma) / (2 - 2 * kb), (color[0] - luma) / (2 - 2 * kr)
        expected = (64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red)
        if levels == FULL:
            expected = (1023 * luma, 512 + 1023 * blue, 512 + 1023 * red)
        made = planes(to_frame(picture, Colors(matrix=matrix, range=levels), "yuv444p10le"))
        assert made == pytest.approx(expected, abs=3.01)  # FFmpeg's own error: a step of 8 bits is 4


@pytest.mark.parametrize("colors", [Colors(), PQ, Colors(matrix=1, range=FULL)])
def test_a_picture_comes_back_from_a_frame(photo, colors):
    frame = to_frame(photo, colors, "yuv444p10le")
    assert (to_picture(frame, colors, 0) - photo).abs().max() < 1.01 / 255


def test_a_clip_says_what_it_is(photo, tmp_path):
    path = write_clip(
        tmp_path / "a.mkv", panned(photo, 5, (48, 64)), codec="ffv1", pixel_format="yuv422p10le", colors=PQ, rate=10,
    )  # fmt: skip
    clip = read_clip(path)
    assert (clip.size, clip.turns, clip.aspect, clip.rate) == ((48, 64), 0, 1, 10)
    assert (clip.bits, clip.chroma, clip.colors) == (10, "422", PQ)
    assert [stamp * clip.tick for stamp in clip.stamps] == [Fraction(n, 10) for n in range(5)]


def test_start_end_and_every_choose_frames_by_their_times(photo, tmp_path):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 20, (48, 64)), rate=10)
    clip = read_clip(path, start=0.5, end=1.5, every=3)
    assert [float(stamp * clip.tick) for stamp in clip.stamps] == pytest.approx([0.5, 0.8, 1.1, 1.4])
    with pytest.raises(UserError, match=r"no frames from 2 s; its last one shows at 1\.90 s"):
        read_clip(path, start=2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_frames_from_the_middle_are_those_of_the_whole(photo, tmp_path, name):
    stamps = None if name != "a.mkv" else [0, 700, 900, 2100, 2500, 4000, *range(5000, 23000, 1000)]
    options = {"g": "8", "bf": "2"} if name != "a.avi" else {"g": "8", "bf": "0"}
    sound = "aac" if name != "a.avi" else "mp3"
    path = write_clip(
        tmp_path / name, panned(photo, 24, (48, 64)), stamps=stamps, options=options, sound=sound, rate=25
    )
    clip = read_clip(path)
    assert len(clip.stamps) == 24
    whole = dict(clip.frames(clip.stamps))
    assert list(whole) == list(clip.stamps)
    part = dict(clip.frames(clip.stamps[13:17]))
    assert list(part) == list(clip.stamps[13:17])
    assert all(torch.equal(picture, whole[stamp]) for stamp, picture in part.items())


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_turned_clip_comes_out_upright(photo, upscale, tmp_path, degrees):
    """Phones store the sensor's rows, and by how much players are to turn them."""
    path = write_clip(tmp_path / "a.mp4", panned(photo, 2, (48, 64)), rotation=degrees, aspect=Fraction(4, 3))
    status, made = upscale(path, "out.mp4", "--scale", "1", "--color", "none")
    assert status == 0
    seen, clip = decoded(made), read_clip(made)
    assert clip.turns == 0
    assert clip.aspect == (Fraction(4, 3) if degrees == 180 else Fraction(3, 4))
    with av.open(str(path)) as container:
        shown = next(container.decode(video=0)).rotation
    expected = torch.rot90(photo[0, :, :48, :64], shown // 90, (1, 2))
    turned = (seen[0] - expected).abs().mean()
    assert turned < 0.5 * (seen[0] - expected.flip(1, 2)).abs().mean()


def test_times_sound_subtitles_and_titles_are_kept(photo, upscale, tmp_path):
    stamps = [0, 512, 1024, 2600, 3000, 5120]  # a rate that varies
    path = write_clip(tmp_path / "a.mp4", panned(photo, 6, (48, 64)), stamps=stamps, title="Pier")
    path = with_subtitles(path, tmp_path / "b.mp4")
    status, made = upscale(path)
    assert status == 0
    assert read_frames(made)[0] == read_frames(path)[0] == [stamp * TICK for stamp in stamps]
    assert decoded(made).shape == (6, 3, 96, 128)
    assert read_packets(made, "audio") == read_packets(path, "audio")
    # between texts, an MP4 has empty ones
    texts = [[packet for packet in read_packets(file, "subtitles") if len(packet[1]) > 2] for file in (made, path)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2
    with av.open(str(made)) as container:
        assert container.metadata["title"] == "Pier"
        record = json.loads(container.metadata["comment"].removeprefix("FlowMapSR "))
    assert (record["from"], record["to"], record["realism"]) == ("64x48", "128x96", 0.0)
    assert [file.name for file in tmp_path.glob(".*")] == []


def with_subtitles(source, target):
    """The clip with subtitles: two lines of ``mov_text``."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(old.metadata)
        kept = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        texts = new.add_mux_stream("mov_text")
        texts.time_base = Fraction(1, 1000)
        for packet in old.demux():
            if packet.size:
                packet.stream = kept[packet.stream]
                new.mux(packet)
        for index, text in enumerate((b"good morning", b"good night")):
            packet = av.Packet(len(text).to_bytes(2, "big") + text)
            packet.pts = packet.dts = 100 * index
            packet.duration, packet.time_base, packet.stream = 100, Fraction(1, 1000), texts
            new.mux(packet)
    return target


@pytest.mark.parametrize("curve", [PQ, HLG])
def test_a_clip_in_pq_or_hlg_comes_out_as_such(photo, upscale, tmp_path, curve):
    """Its samples go through as they are: 10 bits, within a step and what H.265 loses, and what it says of light."""
    path = write_clip(
        tmp_path / "a.mkv", panned(photo, 3, (48, 64)), codec="libx265", pixel_format="yuv420p10le", colors=curve,
        options={"x265-params": f"log-level=error:lossless=1:{LIGHT}"},
    )  # fmt: skip
    status, made = upscale(path, "o.mp4", "--quality", "0")
    before, clip = read_clip(path), read_clip(made)
    assert (status, clip.bits, clip.colors) == (0, 10, curve)
    assert clip.light == before.light == MASTERED
    with av.open(str(made)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    means = [torch.cat([picture.mean((0, 2, 3)) for _, picture in c.frames(c.stamps)]) for c in (before, clip)]
    assert (means[0] - means[1]).abs().max() < 2 / 1023


@pytest.mark.parametrize(("name", "codec"), [("o.mp4", "av1"), ("o.mkv", "h264"), ("o.mkv", "ffv1")])
def test_other_codecs_say_how_bright_a_clip_is_or_it_is_said(photo, upscale, tmp_path, name, codec, caplog):
    path = write_clip(
        tmp_path / "a.mkv", panned(photo, 2, (48, 64)), codec="libx265", pixel_format="yuv420p10le", colors=PQ,
        options={"x265-params": f"log-level=error:{LIGHT}"},
    )  # fmt: skip
    light = read_clip(upscale(path, name, "--codec", codec)[1]).light
    if codec == "ffv1":
        assert light == Light()
        assert "says how bright it is to show, which is left out" in caplog.text
    else:
        assert light.levels == MASTERED.levels
        assert light.mastering == pytest.approx(MASTERED.mastering, rel=2e-3)
        assert not caplog.text


@pytest.mark.parametrize(
    ("name", "codec", "bits"),
    [("o.mp4", "h264", 8), ("o.mov", "prores", 10), ("o.mkv", "ffv1", 8), ("o.webm", "av1", 8), ("o.mp4", "h265", 8)],
)
def test_codecs_by_name(photo, upscale, tmp_path, name, codec, bits):
    sound = "libopus" if name == "o.webm" else "aac"
    path = write_clip(tmp_path / "a.mkv", panned(photo, 3, (48, 64)), sound=sound)
    status, made = upscale(path, name, "--codec", codec)
    assert (status, read_clip(made).bits, len(decoded(made))) == (0, bits, 3)
    assert read_packets(made, "audio")


def test_pixels_that_are_not_square_stay_so_or_it_is_said(photo, upscale, tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 2, (48, 64)), aspect=Fraction(4, 3))
    for name, codec in (("o.mp4", "h264"), ("o.mkv", "h265"), ("o.mp4", "av1"), ("o.mov", "prores")):
        assert read_clip(upscale(path, name, "--codec", codec)[1]).aspect == Fraction(4, 3)
    assert not caplog.text
    assert upscale(path, "o.mkv", "--codec", "ffv1")[0] == 0
    assert "pixels of 4:3, which ffv1 in .mkv does not say; h264 and h265 do, as do .mp4 and .mov" in caplog.text


def test_quality_is_the_codecs_own(photo, upscale, tmp_path):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 4, (48, 64)))
    sizes = [upscale(path, f"{crf}.mp4", "--quality", str(crf))[1].stat().st_size for crf in (5, 45)]
    assert sizes[0] > 2 * sizes[1]


def test_odd_sizes_get_one_pixel_more(photo, upscale, tmp_path):
    path = write_clip(tmp_path / "a.mkv", panned(photo, 2, (49, 65)), codec="ffv1")
    status, made = upscale(path, "o.mp4", "--scale", "1")
    assert (status, read_clip(made).size) == (0, (50, 66))


def test_one_frame_without_sound(photo, upscale, tmp_path):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 1, (48, 64)), sound=None)
    status, made = upscale(path)
    assert (status, len(decoded(made))) == (0, 1)


def test_sound_goes_by_start_and_end(photo, upscale, tmp_path):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 30, (48, 64)), rate=10)
    status, made = upscale(path, "o.mp4", "--start", "1", "--end", "2")
    assert status == 0
    assert [float(time) for time in read_frames(made)[0]] == pytest.approx([n / 10 for n in range(10)])
    there = dict(read_packets(path, "audio"))
    packets = read_packets(made, "audio")
    assert 46 <= len(packets) <= 48
    for begin, content in packets:  # which an MP4 has begin at a whole millisecond
        assert any(abs(begin + 1 - before) < 0.001 and content == same for before, same in there.items())


def test_a_folder_of_clips_and_pictures(photo, upscale, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_clip(folder / "a.mp4", panned(photo, 2, (48, 64)))
    write_clip(folder / "b.avi", panned(photo, 2, (48, 64)), sound=None)
    from PIL import Image

    Image.new("RGB", (20, 16)).save(folder / "c.png")
    status, made = upscale(folder, "out")
    assert status == 0
    assert sorted(file.name for file in made.iterdir()) == ["a.mp4", "b.avi.mkv", "c.png"]
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}
    assert upscale(folder, "out")[0] == 0
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before


@pytest.mark.parametrize(("able", "more"), [("AVX512", ["asm=avx2"]), ("AVX2", []), ("DEFAULT", [])])
def test_x264_computes_in_avx2_where_the_processor_can_do_more(able, more, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: able)
    told = MASTERED.told("libx264", {"preset": "medium"})
    assert repeatable("libx264", told)["x264-params"].split(":") == [*told["x264-params"].split(":"), *more]
    assert repeatable("libx264", {}) == ({"x264-params": "asm=avx2"} if more else {})
    assert repeatable("libx265", told) == told


# the command, which SIGKILL ends before the frame of a stamp
KILLED = """
import os, signal, sys
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.video.clip import Clip
frames, moment = Clip.frames, int(sys.argv.pop(1))
def until_killed(self, stamps):
    for stamp, picture in frames(self, stamps):
        if stamp == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        yield stamp, picture
Clip.frames = until_killed
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_at_three_moments_it_goes_on_to_the_same_clip(photo, model, tmp_path, monkeypatch):
    source = write_clip(tmp_path / "a.mp4", panned(photo, 4 * parts.FRAMES + 5, (32, 40), step=0))
    options = ["--model", str(model), "--look", "faithful", "--scale", "2", "--quiet"]
    assert main(["upscale", str(source), "--output", str(tmp_path / "whole.mp4"), *options]) == 0

    target, folder = tmp_path / "killed.mp4", tmp_path / ".killed.mp4.parts"
    command = ["upscale", str(source), "--output", str(target), *options]
    stamps = read_clip(source).stamps
    kept = {}
    for frame in sorted(random.Random(14).sample(range(len(stamps)), 3)):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(stamps[frame]), *command])
        assert ended.returncode == -signal.SIGKILL
        assert not target.exists()
        whole = {file: file.stat().st_mtime_ns for file in folder.glob("*.part")}
        assert len(whole) == frame // parts.FRAMES
        assert kept.items() <= whole.items()
        kept = whole
    assert kept
    seen = {}
    monkeypatch.setattr(parts.Parts, "remove", lambda self: seen.update(
        {file: file.stat().st_mtime_ns for file in self.folder.glob("*.part")}
    ))  # fmt: skip
    assert main(command) == 0
    assert len(seen) == 5
    assert kept.items() <= seen.items()
    assert read_frames(target) == read_frames(tmp_path / "whole.mp4")
    assert read_packets(target, "audio") == read_packets(source, "audio")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_does_not_grow_with_the_length(photo, model, tmp_path):
    """A frame in floats that each frame left behind would be 31 MiB."""
    peaks = []
    for count in (30, 5 * parts.FRAMES + 10):
        source = write_clip(tmp_path / f"{count}.mp4", panned(photo, count, (48, 64), step=0))
        options = ["--model", str(model), "--look", "faithful", "--scale", "2", "--quiet"]
        command = ["upscale", str(source), "--output", str(tmp_path / f"{count}-2x.mp4"), *options]
        process = subprocess.Popen([sys.executable, "-m", "flowmapsr.flowmapsr_core", *command])
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(used.ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 25


def test_parts_for_other_settings_are_made_anew(photo, upscale, tmp_path, monkeypatch, caplog):
    source = write_clip(tmp_path / "a.mp4", panned(photo, 3, (32, 40)))
    monkeypatch.setattr(parts.Parts, "remove", lambda self: None)
    upscale(source, "o.mp4", "--color", "none")
    assert upscale(source, "o.mp4", "--color", "wavelet")[0] == 0
    assert "for other settings" in caplog.text
    monkeypatch.undo()
    upscale(source, "fresh.mp4", "--color", "wavelet")
    assert read_frames(tmp_path / "o.mp4") == read_frames(tmp_path / "fresh.mp4")


def test_bad_clips_are_a_line_each(photo, upscale, tmp_path, capsys):
    good = write_clip(tmp_path / "good.mp4", panned(photo, 8, (48, 64)))
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:2000])  # without its index, which stands at the end
    (tmp_path / "text.mkv").write_text("no clip")
    (tmp_path / "empty.mov").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container, av.open(str(good)) as old:
        voice = container.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.size:
                packet.stream = voice
                container.mux(packet)
    strange = write_clip(tmp_path / "strange.mkv", panned(photo, 2, (48, 64))).read_bytes()
    (tmp_path / "strange.mkv").write_bytes(strange.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    (tmp_path / "noise.mkv").write_bytes(strange.replace(b"A_AAC", b"A_XYZ"))
    for name, message in (
        ("cut.mp4", "is damaged, or no clip"),
        ("text.mkv", "is damaged, or no clip"),
        ("empty.mov", "is damaged, or no clip"),
        ("sound.mp4", "has no picture, only audio"),
        ("missing.mp4", "no such file"),
        ("strange.mkv", "is in a codec that FFmpeg here does not know; convert it"),
        ("noise.mkv", ".mp4 does not hold a codec unknown here, which the sound of"),
    ):
        assert upscale(tmp_path / name, "o.mp4")[0] == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert name in line
        assert not list(tmp_path.glob("o.mp4"))


def test_a_clip_that_is_damaged_in_the_middle_gives_the_rest(photo, upscale, tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 30, (48, 64)), options={"g": "5"}, sound=None)
    content = path.read_bytes()
    part = len(content) // 4
    path.write_bytes(content[:part] + bytes(part) + content[2 * part :])
    status, made = upscale(path)
    assert status == 0
    assert 10 <= len(decoded(made)) < 30
    assert "frames cannot be decoded and are left out" in caplog.text


def damage(path, lost):
    """Overwrite the frames of these numbers, each of which is coded by itself, with zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in (places[index] for index in lost):
        content[position : position + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize("arguments", [(), ("--no-temporal",)])
@pytest.mark.parametrize("lost", [range(10, 20), range(24, 30), range(9, 12)])
def test_all_other_frames_show_when_they_did(photo, upscale, tmp_path, monkeypatch, caplog, lost, arguments):
    """Lost are all frames of a part, of the last one, and the first ones of a part."""
    monkeypatch.setattr(parts, "FRAMES", 10)
    path = write_clip(tmp_path / "a.mp4", panned(photo, 30, (48, 64)), options={"g": "1", "bf": "0"}, sound=None)
    damage(path, lost)
    status, made = upscale(path, "out.mp4", *arguments)
    assert status == 0
    assert read_frames(made)[0] == [Fraction(index, 25) for index in range(30) if index not in lost]
    assert sum(map(int, re.findall(r"(\d+) frames cannot be decoded", caplog.text))) == len(lost)  # of all parts
    assert not list(tmp_path.glob(".*"))


def test_a_clip_of_which_nothing_is_left_is_an_error(photo, upscale, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", panned(photo, 6, (48, 64)), options={"g": "1", "bf": "0"}, sound=None)
    damage(path, range(3, 6))
    assert upscale(path, "out.mp4", "--start", "0.12")[0] == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("is damaged: none of the frames asked for can be decoded")
    assert not list(tmp_path.glob("*out*"))


def test_a_clip_that_breaks_off_gives_what_it_has(photo, upscale, tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", panned(photo, 30, (48, 64)), codec="ffv1")
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    status, made = upscale(tmp_path / "cut.mkv", "o.mkv")
    assert status == 0
    assert 10 <= len(decoded(made)) < 30


@pytest.mark.parametrize(
    ("arguments", "name", "message"),
    [
        ((), "o.avi", "cannot write '.avi'; end the name in .mp4, .mov, .mkv, .webm"),
        (("--codec", "prores"), "o.mp4", ".mp4 does not hold prores; end the name in .mov, .mkv"),
        (("--quality", "60"), "o.mp4", "quality is 60; h264 takes 0 (best) to 51"),
        (("--codec", "ffv1", "--quality", "3"), "o.mkv", "ffv1 loses nothing"),
        (("--start", "9"), "o.mp4", "no frames from 9 s"),
        (("--every", "0"), "o.mp4", "use 1 for all frames"),
        ((), "o.webm", ".webm does not hold aac, which the sound of"),
        (("--scale", "9"), "o.mp4", "use a factor from 1 to 8"),
        (("--invention-map", "map.png"), "o.mp4", "a clip, which gets no map"),
    ],
)
def test_bad_options_are_said_before_anything_is_made(photo, upscale, tmp_path, capsys, arguments, name, message):
    source = write_clip(tmp_path / "a.mp4", panned(photo, 3, (48, 64)))
    assert upscale(source, name, *arguments)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "small.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
@pytest.mark.parametrize(("limit", "file"), [(2000, "000000.part"), (20000, "o.mp4")])
def test_a_full_disk_is_a_line_and_the_whole_parts_stay(photo, upscale, tmp_path, capsys, limit, file):
    """A file may have so many bytes: too few for a part, or for the clip they are joined to."""
    import resource

    source = write_clip(tmp_path / "a.mp4", panned(photo, 3, (48, 64)), rate=1)  # with three seconds of sound
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        status, made = upscale(source, "o.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert f"{file} cannot be written (File too large)" in line
    assert not made.exists()
    assert len(list(tmp_path.rglob("*.part"))) == (file == "o.mp4")
    assert not list(tmp_path.rglob("*.partial"))
    assert upscale(source, "o.mp4")[0] == 0


def test_without_pyav_a_line_says_what_to_install(photo, upscale, tmp_path, monkeypatch, capsys):
    source = write_clip(tmp_path / "a.mp4", panned(photo, 2, (48, 64)))
    monkeypatch.setitem(sys.modules, "av", None)
    assert upscale(source)[0] == 2
    assert "pip install 'flowmapsr[video]'" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_said(photo, tmp_path, monkeypatch):
    clip = read_clip(write_clip(tmp_path / "a.mp4", panned(photo, 2, (48, 64))))
    monkeypatch.setattr(av, "codecs_available", {"ffv1", "libx264"})
    with pytest.raises(UserError, match="no encoder for av1; choose h264, ffv1"):
        choose_encoding(clip, tmp_path / "o.mp4", "av1")
