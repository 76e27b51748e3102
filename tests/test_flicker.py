import pytest
import torch
from clips import decoded, write_clip
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.evaluation.flicker import affine, flicker, inverse, view
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.flowmapsr_core.images.color import gaussian_blur
from flowmapsr.flowmapsr_core.method.methods import FlowMapMethod

STILL = affine()[None]


def clip(scene, motions, size):
    return torch.stack([view(scene, motion, size) for motion in motions])


def test_a_clip_that_does_not_change_has_no_flicker(photo):
    assert flicker(photo.repeat(4, 1, 1, 1), STILL.repeat(4, 1, 1), 0).change == 0


@pytest.mark.parametrize("motion", [affine(), affine(3.3, -1.7, 1.02, 5)])
def test_a_picture_that_gets_brighter_and_darker_flickers_by_as_much(photo, motion):
    frames = 0.1 + 0.8 * photo.repeat(4, 1, 1, 1)
    frames[1::2] += 0.02
    step = 0.02 * (65.481 + 128.553 + 24.966)  # of the luma's studio range, in steps of 8 bits
    assert flicker(frames, motion.repeat(4, 1, 1), 4).change == pytest.approx(step, rel=1e-4)


def test_noise_flickers_by_its_root_of_two(generator):
    frames = 0.5 + 0.01 * torch.randn(8, 1, 128, 128, generator=generator).expand(-1, 3, -1, -1)
    found = flicker(frames, STILL.repeat(8, 1, 1), 0)
    assert found.change == pytest.approx(2.19 * 2**0.5, rel=0.02)


def test_a_pan_by_whole_pixels_is_taken_out(photo):
    scene, motions = photo[0], torch.stack([affine(2.0 * k, -3.0 * k) for k in range(4)])
    frames = clip(scene, motions, (60, 80))
    assert torch.allclose(frames[1].float(), scene[:, 17:77, 18:98], atol=1e-6)  # its middle lies at (44.5, 60.5)
    assert flicker(frames, motions, 0).change < 1e-6


@pytest.mark.parametrize(
    "steps",
    [lambda k: {"down": 0.37 * k, "along": 0.21 * k}, lambda k: {"zoom": 0.99**k}, lambda k: {"degrees": 0.6 * k}],
    ids=["pan", "zoom", "turn"],
)
def test_fractions_of_pixels_zooms_and_turns_of_smooth_pictures_are_taken_out(photo, steps):
    scene = gaussian_blur(photo, 1.5)[0]
    motions = torch.stack([affine(**steps(k)) for k in range(4)])
    frames = clip(scene, motions, (60, 80))
    assert (frames[1] - frames[0]).abs().max() > 0.005
    assert flicker(frames, motions, 8).change < 0.02
    assert flicker(frames, STILL.repeat(4, 1, 1), 8).change > 0.2


def test_a_motion_and_the_one_back_lead_nowhere():
    motion = affine(3, -2, 1.1, 12)
    place = torch.tensor([5.0, 7.0], dtype=torch.float64)
    there = motion @ torch.cat([place, torch.ones(1, dtype=torch.float64)])
    back = inverse(motion) @ torch.cat([there, torch.ones(1, dtype=torch.float64)])
    assert torch.allclose(back, place)


def test_detail_is_what_is_finer(photo):
    flat, fine = torch.full_like(photo, 0.5), photo.clone()
    assert flicker(flat.repeat(2, 1, 1, 1), STILL.repeat(2, 1, 1), 0).detail < 1e-6
    sharp = flicker(fine.repeat(2, 1, 1, 1), STILL.repeat(2, 1, 1), 0).detail
    blurred = flicker(gaussian_blur(fine, 2.0).repeat(2, 1, 1, 1), STILL.repeat(2, 1, 1), 0).detail
    assert sharp > 2 * blurred > 0


def test_a_clip_has_one_field_of_noise(small_model, photo, tmp_path):
    """A clip that stands still is upscaled to one that does, by a model that starts from noise."""
    small_model.flow.method = FlowMapMethod(noise=0.2)
    save_checkpoint(small_model, tmp_path / "noisy.safetensors")
    source = write_clip(tmp_path / "a.mkv", 3 * [photo[..., :48, :64]], codec="ffv1", sound=None)
    made = []
    for seed in ("0", "1"):
        output = tmp_path / f"{seed}.mkv"
        options = ["--model", str(tmp_path / "noisy.safetensors"), "--scale", "2", "--seed", seed, "--quiet"]
        assert main(["upscale", str(source), "--output", str(output), "--codec", "ffv1", *options]) == 0
        made.append(decoded(output))
    assert flicker(made[0], STILL.repeat(3, 1, 1), 0).change == 0
    assert (made[0] - made[1]).abs().mean() > 0.001
