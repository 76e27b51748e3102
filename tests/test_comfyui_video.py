"""The video node in a real ComfyUI."""

import pytest
from clips import decoded, panned, read_frames, read_packets, write_clip
from comfyui_server import NEEDS_COMFYUI, Server
from flowmapsr.flowmapsr_core.cli.command import main

pytestmark = NEEDS_COMFYUI


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("comfyui"))
    yield running
    running.stop()


def prompt(name, **inputs):
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "2": {
            "class_type": "FlowMapSR_UpscaleVideo",
            "inputs": {"video": ["1", 0], "factor": 2.0, "look": "faithful", **inputs},
        },
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": "clip", "format": "auto", "codec": "auto"},
        },
    }


def saved(server, entry):
    (file,) = entry["outputs"]["3"]["images"]
    return server.base / "output" / file["filename"]


@pytest.mark.parametrize("temporal", [False, True])
def test_the_node_gives_the_frames_of_the_command_and_the_sound_of_the_source(server, photo, tmp_path, temporal):
    if temporal:
        pytest.importorskip("cv2")
    source = write_clip(server.base / "input" / "a.mp4", panned(photo, 50, (32, 40), step=1))
    before = set((server.base / "temp").iterdir())
    made = saved(server, server.succeed(prompt("a.mp4", temporal=temporal)))
    target = tmp_path / "command.mp4"
    options = ["--scale", "2", "--look", "faithful", "--temporal" if temporal else "--no-temporal"]
    assert main(["upscale", str(source), "--output", str(target), *options]) == 0
    assert read_frames(made) == read_frames(target)
    assert read_packets(made, "audio") == read_packets(source, "audio")
    left = [file.name for file in set((server.base / "temp").iterdir()) - before if "flowmapsr" in file.name]
    assert len(left) == 1  # the file that the VIDEO is


def test_a_video_of_frames_is_upscaled_too(server, photo):
    write_clip(server.base / "input" / "b.mp4", panned(photo, 4, (32, 40)))
    graph = prompt("b.mp4")
    graph["4"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}}
    graph["5"] = {"class_type": "CreateVideo", "inputs": {"images": ["4", 0], "audio": ["4", 1], "fps": 30.0}}
    graph["2"]["inputs"]["video"] = ["5", 0]
    made = saved(server, server.succeed(graph))
    straight = saved(server, server.succeed(prompt("b.mp4")))
    assert decoded(made).shape == (4, 3, 64, 80)
    assert (decoded(made) - decoded(straight)).abs().mean() < 0.02
    assert [float(time) for time in read_frames(made)[0]] == pytest.approx([index / 30 for index in range(4)], abs=1e-4)
    assert read_packets(made, "audio")
    graph["2"]["inputs"]["look"] = "vivid"
    server.succeed(graph)
    assert (
        len(list((server.base / "temp").glob("*.source"))) == 1
    )  # the frames are stored once, whatever becomes of them


def test_what_is_wrong_is_said_at_the_node(server, photo):
    write_clip(server.base / "input" / "c.mp4", panned(photo, 2, (32, 40)))
    (server.base / "input" / "c.mp4").write_bytes((server.base / "input" / "c.mp4").read_bytes()[:900])
    kind, message = server.fail(prompt("c.mp4"))
    assert kind == "FlowMapSR_UpscaleVideo"
    assert "is damaged, or no clip" in message
