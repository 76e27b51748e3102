"""A noisy LR end and LR beside the state: what a method adds to a flow, and that nothing else changes."""

import signal
from dataclasses import replace

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.method.flow import conditional_velocity, flow_map, interpolant, sample
from flowmapsr.flowmapsr_core.method.looks import Look
from flowmapsr.flowmapsr_core.method.methods import CTMSR, FlowMapMethod
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, LocalNet, UNet
from flowmapsr.flowmapsr_core.upscaling.pipeline import noise_like
from flowmapsr.flowmapsr_core.upscaling.tiling import HaloTiling
from flowmapsr.trainer.objectives import JUMPS
from gaussian_flow import STEPS, GaussianFlow, column
from safetensors.torch import load_file
from trainer_process import failure, start, train

NOISY = FlowMapMethod(noise=0.1, condition=True)
METHODS = [FlowMapMethod(), FlowMapMethod(noise=0.2), NOISY, FlowMapMethod(0.3, True, True), CTMSR(0.5)]


@pytest.fixture
def latents(generator):
    """x0, lr and noise (2, 3, 4, 4) in float64."""
    return tuple(torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))


def with_method(model, method):
    """A model like another, for a method; weights that are not zero."""
    torch.manual_seed(1)
    flow = FlowMap(LocalNet(replace(model.network.config, inputs=method.images)), method)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Model(flow.requires_grad_(False).eval(), model.codec)


def test_a_flow_joins_hr_and_noisy_lr(latents):
    x0, lr, eps = latents
    assert FlowMapMethod().ends(x0, lr, None) == (x0, lr)
    assert torch.equal(FlowMapMethod(noise=0.2).ends(x0, lr, eps)[1], lr + 0.2 * eps)
    start0, start1 = FlowMapMethod(0.6, preserving=True, condition=True).ends(x0, lr, eps)
    assert torch.allclose(start1, torch.cat([0.8 * lr + 0.6 * eps, lr], dim=1), atol=1e-15)
    assert torch.equal(start0, torch.cat([x0, lr], dim=1))
    assert torch.equal(CTMSR(0.5).ends(x0, lr, eps)[1], torch.cat([lr + 0.5 * eps, lr], dim=1))


def test_lr_rides_along_untouched(latents):
    """Interpolant, sampling in parts and every training target leave it where it is."""
    x0, lr, eps = latents
    state0, state1 = NOISY.ends(x0, lr, eps)

    def u(x, t, s):
        return NOISY.velocity(x[:, :3] * (1 + column(t)) + column(s) * x[:, 3:], x, t)

    t, s = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)
    x_t, v = interpolant(state0, state1, t), conditional_velocity(state0, state1)
    assert torch.equal(x_t[:, 3:], lr)
    tiled = HaloTiling(2, 1, 1).velocity(u)
    assert torch.equal(sample(tiled, state1, 4)[:, 3:], lr)
    for name, target in JUMPS.items():
        assert (target(u, x_t, v, t, s, **STEPS.get(name, {}))[:, 3:] == 0).all(), name


@pytest.mark.parametrize("t", [0.0, 0.1, 1 / 3, 2 / 3, 1.0])
def test_ctmsr_is_the_consistency_function_of_the_paper(latents, t):
    """Equation 9 around LR: ``f = y + c_skip (x - y) - c_out N``, and f = x at time 0."""
    x, y, output = latents
    method, time = CTMSR(0.7), torch.tensor([t], dtype=torch.float64)
    state = torch.cat([x, y], dim=1)
    q, d = 0.7 * t / 0.1, 0.5
    skip, out = d**2 / (q**2 + d**2), q / (q**2 + d**2) ** 0.5
    f = flow_map(lambda x, t, s: method.velocity(output, x, t), state, time, torch.zeros(1))
    assert torch.allclose(f[:, :3], y + skip * (x - y) - out * output, atol=1e-14)
    assert torch.equal(f[:, 3:], y)


def test_realism_of_ctmsr_is_the_share_of_its_noise(latents):
    """Of a Gaussian, an exact jump from that share of the noise is the mean plus that share of the deviation."""
    _, lr, eps = latents
    flow = GaussianFlow(mean0=0.3, std0=0.2, mean1=lr, std1=0.5)

    def u(state, t, s):
        return torch.cat([flow.u(state[:, :3], t, s), torch.zeros_like(lr)], dim=1)

    for realism in (0.0, 0.4, 1.0):
        x = CTMSR(0.5).sample(u, lr, eps, Look(1, 1.0, 0.0, realism))
        assert torch.allclose(x, 0.3 + realism * 0.2 * eps, atol=1e-7)


def test_a_method_follows_what_it_can(caplog):
    assert FlowMapMethod().settings(Look(4, 2.0, 1.0, 0.0)) == Look(1, 2.0, 1.0, 0.0)
    assert FlowMapMethod().settings(Look(4, 2.0, 1.0, 0.5)) == Look(4, 2.0, 1.0, 0.5)
    with caplog.at_level("INFO", "flowmapsr"):
        assert CTMSR().settings(Look(4, 2.0, 1.0, 0.5)) == Look(1, 1.0, 1.0, 0.5)
    assert "takes one evaluation" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_names_its_method(small_model, method, tmp_path, photo):
    model = with_method(small_model, method)
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.method == method
    config = describe(tmp_path / "model.safetensors")["config"]
    assert ("method" in config) == (method != FlowMapMethod())
    assert "inputs" not in config["network"]
    assert torch.allclose(*(upscale(each, photo, 2, seed=3) for each in (model, again)), atol=1e-5)


def test_a_network_takes_as_many_images_as_the_method_stacks(small_model):
    with pytest.raises(ValueError, match=r"network\.inputs is 1, the method stacks 2"):
        Model(FlowMap(LocalNet(small_model.network.config), NOISY), PixelCodec())
    with pytest.raises(ValueError, match=r"unknown key method\.nois"):
        Model.from_config({**small_model.config(), "method": {"type": "flow-map", "nois": 0.1}})
    with pytest.raises(UserError, match=r"method\.noise"):
        FlowMapMethod(noise=-1)


def test_a_colour_that_is_added_to_lr_changes_nothing(small_model, generator):
    network = with_method(small_model, NOISY).network
    x = torch.rand(1, 24, 8, 8, generator=generator)
    condition = torch.rand(1, network.config.condition_dim, generator=generator)
    shifted = network.evaluate(x + 0.3, condition)
    assert torch.allclose(network.evaluate(x, condition), shifted, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_seed_is_a_picture(small_model, photo, method):
    """Over tiles, in a batch and alone, and another seed gives another one."""
    model = with_method(small_model, method)
    picture = upscale(model, photo, 2, seed=5, tile=0)
    for tile in (32, 64, 100):
        assert torch.allclose(upscale(model, photo, 2, seed=5, tile=tile), picture, atol=1e-5)
    batch = upscale(model, torch.cat([photo, photo.flip(3), photo]), 2, seed=5, tile=0)
    assert torch.equal(batch[:1], picture)
    assert torch.equal(batch[2:], picture)
    assert (upscale(model, photo, 2, seed=6, tile=0) - picture).abs().max() > 1e-3
    with pytest.raises(UserError, match="the seed is -1"):
        upscale(model, photo, 2, seed=-1)


def test_noise_is_drawn_for_the_whole_latent():
    noise = noise_like(torch.zeros(1, 12, 30, 20), 7)
    assert torch.equal(noise, noise_like(torch.zeros(1, 12, 30, 20), 7))
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_a_latent_model_takes_a_condition(photo):
    torch.manual_seed(0)
    unet = UNet(replace(PRESETS["tiny"], channels=12, inputs=2))
    model = Model(FlowMap(unet, NOISY).requires_grad_(False), PixelCodec())
    assert upscale(model, photo, 1.5).shape == (1, 3, 135, 183)


NOISE = 'model.method={type="flow-map", noise=0.1, condition=true}'


def test_training_with_noise_goes_on_bit_for_bit(recipe_file, photos, tmp_path):
    places = [f"data.photos={photos}", NOISE]
    whole, stopped = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
    assert train(recipe_file, *places, f"output.folder={whole.parent}").status == 0
    process = start(recipe_file, *places, f"output.folder={stopped.parent}", sigterm=4)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert train(recipe_file, *places, f"output.folder={stopped.parent}").status == 0
    assert load_model(whole).method == NOISY
    weights, again = (load_file(path) for path in (whole, stopped))
    assert [name for name, weight in weights.items() if not torch.equal(weight, again[name])] == []


def test_a_condition_is_added_to_a_model_that_had_none(recipe_file, small_model, photos, tmp_path, photo):
    """At first it does to LR what the model did to its only image."""
    begin = tmp_path / "start.safetensors"
    save_checkpoint(small_model, begin)
    recipe = tmp_path / "more.toml"
    recipe.write_text(f"""
start_from = "{begin.as_posix()}"
stages = [{{ kind = "flow-matching", steps = 1 }}]
data = {{ photos = "{photos.as_posix()}", budgets = [{{ side = 32, batch = 4 }}] }}
model = {{ method = {{ type = "flow-map", condition = true }} }}
optimizer = {{ lr = 1e-12, ema = 0 }}
output = {{ folder = "{(tmp_path / "run").as_posix()}", tracker = "none" }}
""")
    assert train(recipe).status == 0
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert model.method == FlowMapMethod(condition=True)
    settings = {"look": "faithful", "color": "none"}
    assert torch.allclose(upscale(model, photo, 2, **settings), upscale(small_model, photo, 2, **settings), atol=1e-4)


def test_a_model_section_has_three_parts(recipe_file):
    assert "unknown key model.methods" in failure(recipe_file, "model.methods={}")
    assert "noise must be 0 or more" in failure(recipe_file, 'model.method={type="flow-map", noise=-1}')
