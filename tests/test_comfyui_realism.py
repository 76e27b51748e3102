"""Realism in ComfyUI: dial, seed, mask and map of invention, with the pixels of the core."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI

pytestmark = NEEDS_COMFYUI


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "models" / "flowmapsr").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def nodes(base):
    return import_nodes(base)


@pytest.fixture(autouse=True)
def without_gradients():
    """As ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def noisy(nodes, base, small_model):
    """A model that starts from noise, with LR beside it: for the core, and as the nodes load it."""
    from flowmapsr.flowmapsr_core import load_model, save_checkpoint
    from flowmapsr.flowmapsr_core.method.methods import FlowMapMethod
    from flowmapsr.flowmapsr_core.model import FlowMap, Model
    from flowmapsr.flowmapsr_core.networks import LocalNet

    with torch.inference_mode(False):
        torch.manual_seed(1)
        network = LocalNet(replace(small_model.network.config, inputs=2))
        for parameter in network.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
        flow = FlowMap(network, FlowMapMethod(noise=0.2, condition=True))
        path = base / "models" / "flowmapsr" / "noisy.safetensors"
        save_checkpoint(Model(flow, small_model.codec), path)
        model = load_model(path)
        loaded = nodes.load_model.LoadModel.execute(path.name, "float32").args[0]
    path.unlink()
    return model, loaded


def upscaled(nodes, image, *arguments, **options):
    """What the Upscale node makes of (B, 3, H, W), in the same form."""
    return nodes.upscale.Upscale.execute(image.movedim(1, -1), *arguments, **options).args[0].movedim(-1, 1)


def sampled(nodes, model, image, steps="2", **more):
    return nodes.sampler.Sampler.execute(model, image.movedim(1, -1), steps, 2.0, 0, 0, **more).args[0]["samples"]


def ramp(height, width, count=1):
    """A ComfyUI mask (count, height, width) from black to white."""
    return torch.linspace(0, 1, width).expand(count, height, width)


def test_what_is_left_out_is_as_it_was(nodes, noisy, photo):
    """Prompts of before name none of the new inputs."""
    built_in, white = nodes.load_model.LoadModel.execute("built-in", "float32").args[0], torch.ones(1, 90, 122)
    before = upscaled(nodes, photo, 1.5, "vivid", built_in)
    assert torch.equal(before, upscaled(nodes, photo, 1.5, "vivid", built_in, realism_mask=white, seed=3))
    latent = sampled(nodes, built_in, photo)
    assert torch.equal(latent, sampled(nodes, built_in, photo, realism=1.0, seed=9, realism_mask=white))
    mean = sampled(nodes, built_in, photo, "posterior mean")
    for same in ({"realism": 1.0}, {"realism": 0.3, "seed": 5}, {"realism_mask": ramp(90, 122)}):
        assert torch.equal(mean, sampled(nodes, built_in, photo, "posterior mean", **same))
    assert torch.equal(mean, sampled(nodes, built_in, photo, "4", realism=0.0))


def test_the_nodes_give_the_pixels_of_the_core(nodes, noisy, photo):
    from flowmapsr.flowmapsr_core import upscale
    from flowmapsr.flowmapsr_core.method.looks import Look
    from flowmapsr.flowmapsr_core.upscaling.pipeline import upscale_latent

    model, loaded = noisy
    images = torch.cat([photo, photo.flip(3)])
    for mask in (ramp(90, 122), ramp(90, 122, 2), ramp(90, 122)[0], ramp(135, 183)):
        expected = upscale(model, images, 1.5, realism_mask=mask.reshape(-1, 1, *mask.shape[-2:]), seed=7)
        result = upscaled(nodes, images, 1.5, "balanced", loaded, realism_mask=mask, seed=7)
        assert (result - expected).abs().max() < 1e-5
    assert (upscaled(nodes, images, 1.5, "balanced", loaded, seed=8) - expected).abs().max() > 1e-3
    mask = ramp(45, 61)  # of the image before it was resized
    expected = upscale_latent(model, photo, Look(2, 2.0, 0, 0.6), realism_mask=mask[None], seed=7)
    assert (sampled(nodes, loaded, photo, realism=0.6, realism_mask=mask, seed=7) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_picture_in_which_nothing_is_painted_is_black_or_inverted_white(nodes, noisy, photo, value):
    """*Load Image* gives 64 x 64 for it."""
    loaded = noisy[1]
    for make in (lambda mask: upscaled(nodes, photo, 2.0, "balanced", loaded, realism_mask=mask),
                 lambda mask: sampled(nodes, loaded, photo, realism_mask=mask)):  # fmt: skip
        assert torch.equal(make(torch.full((1, 64, 64), value)), make(torch.full((1, 90, 122), value)))


def test_masks_that_do_not_fit(nodes, noisy, photo):
    with pytest.raises(ValueError, match="the realism mask is 64x64 pixels; give one of the image's 122x90, or one of"):
        upscaled(nodes, photo, 2.0, "balanced", realism_mask=torch.eye(64)[None])
    with pytest.raises(ValueError, match="the realism mask is 64x64 pixels; give one of the image's 122x90, or a smal"):
        sampled(nodes, noisy[1], photo, realism_mask=torch.eye(64)[None])
    with pytest.raises(ValueError, match="there are 2 realism masks for 1 images"):
        upscaled(nodes, photo, 2.0, "balanced", realism_mask=torch.zeros(2, 90, 122))


@pytest.mark.parametrize("kind", ["built-in", "noisy"])
def test_the_map_is_that_of_the_core(nodes, noisy, photo, kind, monkeypatch):
    import comfy.utils
    from flowmapsr.flowmapsr_core import load_model, upscale
    from flowmapsr.flowmapsr_core.images.heat import heat_picture
    from flowmapsr.flowmapsr_core.upscaling.invention import invention_map

    built_in = load_model(), nodes.load_model.LoadModel.execute("built-in", "float32").args[0]
    model, loaded = noisy if kind == "noisy" else built_in
    counts = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: counts.append((done, total)))
    images, sources = torch.cat([photo, photo.flip(3)]), photo[..., ::2, ::2].clamp(0, 1)
    arguments = images.movedim(1, -1), sources.movedim(1, -1), "vivid", loaded
    shown, heat, score = nodes.invention_map.InventionMap.execute(*arguments).args
    given = {"look": "vivid", "size": (90, 122)}
    mean = upscale(model, sources, realism=0.0, **given)
    others = [upscale(model, sources, seed=seed, **given) for seed in (1, 2, 3)] if kind == "noisy" else []
    expected = torch.cat([invention_map(image[None], mean, sources, others) for image in images])
    assert shown.shape == (2, 90, 122)
    assert (shown - expected[:, 0]).abs().max() < 1e-3
    assert (heat.movedim(-1, 1) - heat_picture(images, expected)).abs().max() < 1e-2
    assert score == pytest.approx(expected.mean().item(), abs=1e-4)
    assert 0 < score < 1
    assert counts[-1][0] == counts[-1][1]
    assert all(before[0] <= after[0] for before, after in pairwise(counts))


def test_a_map_of_what_does_not_fit_together(nodes, photo):
    execute, image = nodes.invention_map.InventionMap.execute, photo.movedim(1, -1)
    with pytest.raises(ValueError, match="122x90 is not 1 to 8 times the image's 244x180"):
        execute(image, image.repeat_interleave(2, 1).repeat_interleave(2, 2), "balanced")
    with pytest.raises(ValueError, match="the reference is a batch of 2, the image a batch of 1"):
        execute(image, image.expand(2, -1, -1, -1), "balanced")


def test_a_faithful_picture_has_an_empty_map(nodes, photo):
    """Of a source with alpha too."""
    source = torch.cat([photo, ramp(90, 122)[None]], dim=1).movedim(1, -1)
    image = nodes.upscale.Upscale.execute(source, 1.5, "faithful").args[0]
    shown, heat, score = nodes.invention_map.InventionMap.execute(image, source, "faithful").args
    assert shown.max() == score == 0
    assert torch.equal(heat[..., 0], heat[..., 1])


def test_values_beyond_white_go_through_the_node(nodes, photo):
    from flowmapsr.flowmapsr_core import load_model, upscale
    from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype

    def result(image):
        return nodes.upscale.Upscale.execute(image.movedim(1, -1), 2.0, "balanced").args[0].movedim(-1, 1)

    model = load_model("built-in", dtype=find_dtype("auto", TorchHost(torch.device("cpu"))))
    image = photo[..., :24, :32].clone()
    image[..., 0, 0] = 1.2  # as resampling overshoots
    assert torch.equal(result(image), upscale(model, image, scale=2))
    image[..., 4:20, 4:20] = 8
    kept = result(image)
    assert torch.equal(kept, upscale(model, image, scale=2, hdr=True))
    assert kept[..., 16:32, 16:32].mean().item() == pytest.approx(8, rel=0.01)
