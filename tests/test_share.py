"""Many pictures over several processes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import decoded, panned, write_clip
from flowmapsr.flowmapsr_core import UserError, save_checkpoint
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.cli.folder import plan_jobs
from flowmapsr.flowmapsr_core.cli.share import Share
from flowmapsr.flowmapsr_core.video.parts import FRAMES
from flowmapsr.flowmapsr_core.video.temporal import REACH
from PIL import Image

pytest.importorskip("accelerate", reason="needs accelerate, which starts the processes")


@pytest.fixture
def pictures(tmp_path, photo):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        image = (photo[0, :, index : index + 40, :56].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        Image.fromarray(image).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def launched(*arguments):
    """The command in two processes on the CPU, every line they print after ``[default0]:`` or ``[default1]:``.

    ``accelerate launch`` starts several in the same way, but never on a CPU.
    """
    launch = "torch.distributed.run --standalone --nproc_per_node 2 --tee 3 -m flowmapsr.flowmapsr_core"
    return subprocess.run(
        [sys.executable, "-m", *launch.split(), *map(str, arguments)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip


def test_one_process_has_everything(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    share = Share()
    assert share.is_main
    assert share.of([1, 2, 3]) == [1, 2, 3]
    assert share.gather(["wrong"]) == ["wrong"]
    assert share.device("cpu").type == "cpu"


def test_without_accelerate_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match="pip install accelerate"):
        Share()


@pytest.mark.parametrize("number", range(6))
def test_every_item_is_one_process_s(number):
    """Also where there are fewer than processes."""
    shares = [Share() for _ in range(4)]
    for rank, share in enumerate(shares):
        share.state = SimpleNamespace(process_index=rank, num_processes=4)
    items = list(range(number))
    parts = [share.of(items) for share in shares]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_processes_make_the_files_of_one(pictures, tmp_path, small_model):
    model = tmp_path / "model.safetensors"
    save_checkpoint(small_model, model)
    settings = ("--scale", "2", "--model", model, "--dtype", "float32")
    assert cli.main(["upscale", str(pictures), "--output", str(tmp_path / "one"), *map(str, settings)]) == 2
    done = launched("upscale", pictures, "--output", tmp_path / "two", *settings, "--verbose")
    assert done.returncode != 0
    upscaled = [done.stderr.count(f"[default{rank}]:flowmapsr: latent of") for rank in (0, 1)]
    assert sorted(upscaled) == [2, 3], done.stderr[-3000:]
    assert done.stderr.count("broken.png is not an image") == 1, done.stderr[-3000:]
    assert done.stderr.count("5 of 6 images upscaled") == 1, done.stderr[-3000:]
    for index in range(5):
        one, two = (Image.open(tmp_path / name / f"{index}.png") for name in ("one", "two"))
        assert one.getexif() == two.getexif()
        # Some CPUs add up in an order that depends on where in a process's memory the numbers lie.
        apart = np.abs(np.asarray(one).astype(int) - np.asarray(two).astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


def test_two_processes_share_the_parts_of_a_clip(photo, tmp_path, small_model):
    model = tmp_path / "model.safetensors"
    save_checkpoint(small_model, model)
    clip = write_clip(tmp_path / "a.mp4", panned(photo, 2 * FRAMES + 3, (32, 40), step=0))
    settings = ("--scale", "2", "--model", model, "--dtype", "float32", "--look", "faithful", "--quiet")
    assert cli.main(["upscale", str(clip), "--output", str(tmp_path / "one.mp4"), *map(str, settings)]) == 0
    done = launched("upscale", clip, "--output", tmp_path / "two.mp4", *settings, "--verbose")
    assert done.returncode == 0, done.stderr[-3000:]
    upscaled = [done.stderr.count(f"[default{rank}]:flowmapsr: latent of") for rank in (0, 1)]
    assert upscaled == [FRAMES + REACH + 3 + REACH, REACH + FRAMES + REACH], done.stderr[-3000:]  # beside parts, too
    assert decoded(tmp_path / "two.mp4").shape == decoded(tmp_path / "one.mp4").shape
    assert (decoded(tmp_path / "two.mp4") - decoded(tmp_path / "one.mp4")).abs().mean() < 1e-3


def test_what_is_done_is_not_done_again(pictures, tmp_path, small_model, capsys):
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    save_checkpoint(small_model, model)
    (pictures / "broken.png").unlink()
    command = ["upscale", str(pictures), "--output", str(out), "--scale", "2", "--model", str(model)]
    assert cli.main(command) == 0
    (out / "3.png").unlink()
    killed, busy = out / ".3.png.1.partial", out / ".2.png.2.partial"
    killed.touch()
    busy.touch()
    os.utime(killed, (0, 0))
    kept = (out / "1.png").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert "1 of 5 images upscaled, 4 were there already" in capsys.readouterr().err
    assert (out / "3.png").exists()
    assert (out / "1.png").stat().st_mtime_ns == kept
    assert not killed.exists()
    assert busy.exists()
    assert cli.main([*command, "--overwrite"]) == 0
    assert (out / "1.png").stat().st_mtime_ns > kept


@pytest.mark.parametrize("inputs", [["."], ["a.png", "upscaled"]])
def test_an_output_folder_among_the_inputs_is_no_input(inputs, tmp_path, monkeypatch):
    """As ``flowmapsr upscale . --output upscaled`` and ``upscale * --output upscaled`` are typed, again and again."""
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("more"), Path("upscaled", "more")):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "a.png").touch()
        (folder / "b.bmp").touch()
    jobs = plan_jobs([Path(name) for name in inputs], Path("upscaled"))
    assert jobs
    assert not [job for job in jobs if "upscaled" in job.source.parts]


def test_a_folder_in_the_output_is_an_input_if_the_user_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos", "a.png").touch()
    (job,) = plan_jobs([Path("photos")], Path())
    assert (job.source, job.target) == (Path("photos", "a.png"), Path("a.png"))
    with pytest.raises(UserError, match="output photos itself"):
        plan_jobs([Path("photos")], Path("photos"))


def test_no_result_takes_the_place_of_another_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in", "in").mkdir(parents=True)
    Path("in", "a.png").touch()
    Path("in", "in", "a.png").touch()
    with pytest.raises(UserError, match="is an input itself"):
        plan_jobs([Path("in")], Path())
