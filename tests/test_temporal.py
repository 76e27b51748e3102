"""Frames that steady one another, alone and through the command."""

import sys
from pathlib import Path

import pytest
import torch
from clips import decoded, panned, write_clip
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.evaluation.flicker import affine, flicker, view
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.flowmapsr_core.images.color import gaussian_blur
from flowmapsr.flowmapsr_core.images.metrics import psnr_y
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.video import parts
from flowmapsr.flowmapsr_core.video.temporal import REACH, STEPS, steadied, steady

DATA = Path(__file__).parent / "data"


def all_steadied(frames):
    return torch.cat([frame for _, frame in steadied(list(enumerate(frames.split(1))), range(len(frames)))])


def test_frames_that_are_the_same_stay_as_they_are(photo):
    frames = photo.repeat(4, 1, 1, 1)
    assert torch.allclose(all_steadied(frames), frames, atol=1e-3)


def test_noise_of_a_clip_that_moves_gets_less_and_the_picture_no_blurrier(photo, generator):
    scene = gaussian_blur(photo, 1.0)[0]
    motions = torch.stack([affine(down=0.6 * n, along=1.3 * n, degrees=0.3 * n) for n in range(6)])
    clean = torch.stack([view(scene, motion, (64, 96)) for motion in motions]).float().clamp(0, 1)
    noisy = (clean + 0.02 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    made = all_steadied(noisy)
    assert flicker(made, motions, 8).change < 0.5 * flicker(noisy, motions, 8).change
    assert (psnr_y(made, clean, 8) > psnr_y(noisy, clean, 8) + 1).all()
    assert (psnr_y(all_steadied(clean), clean, 8) > 36).all()


def test_what_moves_over_something_else_leaves_no_trace(generator):
    """A disc that goes one way, over a scene that goes another: about its edge is what neighbours do not show."""
    scene = read_picture(DATA / "jetty.png").color[0]
    y, x = torch.meshgrid(torch.arange(160.0) - 80, torch.arange(200.0) - 100, indexing="ij")
    frames, edges = [], []
    for n in range(5):
        down, along = 5.0 * n - 10, -4.0 * n + 8  # of the disc
        distance = torch.hypot(y - down, x - along)
        disc = (40.5 - distance).clamp(0, 1)
        behind, before = (
            view(scene, motion, (160, 200)) for motion in (affine(0, 6.0 * n), affine(-down, 120 - along))
        )
        frames.append(behind * (1 - disc) + before * disc)
        edges.append((distance - 40).abs() < 8)
    clean = torch.stack(frames).float().clamp(0, 1)
    noisy = (clean + 0.03 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    near = torch.stack(edges)[:, None].expand_as(clean)

    def error(made):
        return (made - clean)[near].square().mean().sqrt()

    assert error(all_steadied(noisy)) < error(noisy)
    assert error(all_steadied(clean)) < 0.02


def test_nothing_of_what_is_beyond_a_cut_comes_in():
    picture = read_picture(DATA / "jetty.png").color
    before, after = (scene.repeat(2, 1, 1, 1) for scene in (picture, 1 - picture))
    cut = all_steadied(torch.cat([before, after]))
    assert torch.equal(cut, torch.cat([all_steadied(before), all_steadied(after)]))


def test_each_frame_sees_no_further_than_it_is_said(photo, generator):
    frames = photo + 0.02 * torch.randn(4 * REACH + 1, *photo.shape[1:], generator=generator)
    whole = all_steadied(frames)
    first, middle = REACH, 2 * REACH
    window = list(enumerate(frames.split(1)))[middle - REACH : middle + REACH + 1]
    ((stamp, alone),) = steadied(window, [middle])
    assert (stamp, torch.equal(alone[0], whole[middle])) == (middle, True)
    assert not torch.equal(steady(frames[None, first], []), whole[None, first])


def test_frames_too_small_for_flow_are_left(photo):
    frames = photo[..., :20, :31].repeat(3, 1, 1, 1)
    assert torch.allclose(all_steadied(frames), frames, atol=0.51 / STEPS)


@pytest.fixture
def model(small_model, tmp_path):
    save_checkpoint(small_model, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def upscale(photo, model, tmp_path):
    """Runs the command on a panned photograph; returns its exit status and the clip that it makes."""
    source = write_clip(tmp_path / "a.mkv", panned(photo, 8, (48, 64)), codec="ffv1", sound=None)

    def run(name, *arguments):
        options = ["--model", str(model), "--scale", "2", "--codec", "ffv1", "--quiet", *arguments]
        return main(["upscale", str(source), "--output", str(tmp_path / name), *options]), tmp_path / name

    return run


def test_parts_do_not_change_the_frames(upscale, monkeypatch):
    status, whole = upscale("whole.mkv")
    monkeypatch.setattr(parts, "FRAMES", 3)
    again, made = upscale("parts.mkv")
    frames = decoded(made)
    assert (status, again, len(frames)) == (0, 0, 8)
    assert torch.equal(frames, decoded(whole))
    assert not torch.equal(frames, decoded(upscale("alone.mkv", "--no-temporal")[1]))


def test_without_opencv_a_line_says_what_to_install(upscale, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert upscale("o.mkv")[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install opencv-python-headless" in line
    assert upscale("o.mkv", "--no-temporal")[0] == 0
