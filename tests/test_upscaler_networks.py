"""The networks that have the body of a published upscaler."""

from dataclasses import replace

import pytest
import torch
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import NETWORKS, CompactNet, CompactNetConfig, RRDBNet, RRDBNetConfig, flops
from flowmapsr.flowmapsr_core.networks.rrdbnet import STRIP
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost
from flowmapsr.flowmapsr_core.upscaling.plan import make_plan
from flowmapsr.flowmapsr_core.upscaling.tiling import tiling_for
from live_memory import LiveMemory

SMALL = {"width": 6, "condition_dim": 8, "prompt_dim": 4}
COMPACT = CompactNetConfig(unshuffle=2, layers=2, **SMALL)
RRDB = RRDBNetConfig(unshuffle=2, blocks=1, growth=3, **SMALL)


def build(config):
    torch.manual_seed(0)
    return (CompactNet if isinstance(config, CompactNetConfig) else RRDBNet)(config)


def shaken(network):
    """Every weight counts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def arguments(network, count=1):
    """t, s, prompt and guidance."""
    one = torch.ones(count)
    return one, 0 * one, torch.zeros(count, network.config.prompt_dim, dtype=network.stem.weight.dtype), one


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_a_fresh_network_changes_nothing(config, generator):
    network = build(config)
    x = torch.randn(2, network.channels, 8, 6, generator=generator)
    assert network(x, *arguments(network, 2)).abs().max() == 0
    network = build(replace(config, inputs=2))
    u = network(torch.cat([x, x.flip(0)], dim=1), *arguments(network, 2))
    assert torch.allclose(u, x - x.flip(0), atol=1e-6)


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_a_state_beside_lr_is_seen_by_weights_in_front(config, generator):
    """Where those are zero, the picture is what the network with LR alone makes of it."""
    alone, beside = shaken(build(config)), build(replace(config, inputs=2))
    weights = alone.state_dict()
    for name in ("stem.weight", "base.weight"):
        weights[name] = torch.cat([torch.zeros_like(weights[name]), weights[name]], dim=1)
    beside.load_state_dict(weights)
    state, lr = torch.randn(2, 1, alone.channels, 8, 6, generator=generator)
    picture = lr - alone(lr, *arguments(alone))
    u = beside(torch.cat([state, lr], dim=1), *arguments(beside))
    assert torch.allclose(state - u, picture, atol=1e-5)


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_inputs_of_the_network_all_matter(config, generator):
    network = shaken(build(config))
    x = torch.randn(1, network.channels, 8, 6, generator=generator)
    one, zero, prompt, _ = arguments(network)
    base = network(x, one, zero, prompt, one)
    for changed in ((zero, zero, prompt, one), (one, one, prompt, one), (one, zero, prompt + 1, one),
                    (one, zero, prompt, 3 * one)):  # fmt: skip
        assert (network(x, *changed) - base).abs().max() > 1e-4


@pytest.mark.parametrize(
    "config",
    [
        replace(COMPACT, layers=0),
        replace(COMPACT, unshuffle=3),
        replace(RRDB, blocks=0, unshuffle=1),
        replace(RRDB, blocks=0, unshuffle=8),
        RRDB,
        replace(RRDB, unshuffle=4),
    ],
)
def test_receptive_field_is_as_declared(config):
    """A change reaches a cell from the declared radius, and not from beyond it."""
    network = build(config).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    radius = network.receptive_radius
    x = torch.randn(1, network.channels, 3, 2 * radius + 5, dtype=torch.float64)
    before, seen_from = network(x, *arguments(network)), []
    for column in range(radius + 3):
        changed = x.clone()
        changed[..., column] += 1
        if (network(changed, *arguments(network)) - before)[..., radius + 2].any():
            seen_from.append(radius + 2 - column)
    assert max(seen_from) == radius


@pytest.mark.parametrize("config", [COMPACT, RRDB])
@pytest.mark.parametrize("tile", [3, 20, 400])
def test_tiling_is_exact(config, tile, generator):
    network = shaken(build(config))
    x = torch.randn(1, network.channels, 3 * STRIP, 2 * STRIP + 13, generator=generator)
    u = FlowMap(network).requires_grad_(False).velocity(1.5)
    one, zero = torch.ones(1), torch.zeros(1)
    tiles = tiling_for(network, tile, overlap=0)
    assert len(tiles.boxes(*x.shape[-2:])) == 1 if tile == 400 else 2
    assert (tiles.velocity(u)(x, one, zero) - u(x, one, zero)).abs().max() < 1e-5


def test_the_head_paints_in_strips_what_it_paints_at_once(generator):
    network = shaken(build(RRDB))
    x = torch.randn(1, network.channels, 2 * STRIP + 5, 7, generator=generator)
    whole = network(x, *arguments(network))
    with torch.no_grad():
        strips = network(x, *arguments(network))
    assert whole.requires_grad
    assert torch.allclose(whole, strips, atol=1e-5)


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_checkpointed_activations_give_the_same_gradient(config, generator):
    network = shaken(build(config))
    x = torch.randn(1, network.channels, 8, 6, generator=generator)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(x, *arguments(network)).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.checkpoint_activations()
    assert all(torch.equal(plain, saving) for plain, saving in zip(*gradients, strict=True))


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_features_stay_in_bfloat16_in_mixed_precision(config, generator):
    network = shaken(build(config))
    dtypes = set()
    for module in network.modules():
        if not isinstance(module, (CompactNet, RRDBNet)):
            module.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        u = network(torch.randn(1, network.channels, 8, 6, generator=generator), *arguments(network))
    assert dtypes == {torch.bfloat16}
    assert u.dtype == torch.float32


@pytest.mark.parametrize(
    "config",
    [
        COMPACT,
        CompactNetConfig(width=24, layers=2),
        CompactNetConfig(width=64, layers=2, inputs=2),
        RRDBNetConfig(unshuffle=2, width=16, growth=16, blocks=2),
        RRDBNetConfig(unshuffle=2, width=16, growth=16, blocks=2, inputs=2),
    ],
)
@torch.no_grad()
def test_memory_of_an_evaluation_is_as_declared(config):
    network = build(config)
    height, width = 12 * STRIP, 48
    with LiveMemory() as live:
        x = torch.zeros(1, config.inputs * network.channels, height, width)
        network.evaluate(x, network.embed(*arguments(network)))
    assert live.peak / (4 * height * width) == pytest.approx(network.floats_per_cell, rel=0.05)


def test_operations_are_those_of_its_kernels_and_matrices():
    network = build(COMPACT)
    modulated = {name: p for name, p in network.named_parameters() if not name.startswith("condition.")}
    kernels, matrices = (sum(p.numel() for p in modulated.values() if p.dim() == dim) for dim in (4, 2))
    assert flops(network, 8, 6) == 2 * (8 * 6 * kernels + matrices)


def test_tiles_are_not_smaller_than_the_halo_of_a_wide_network(monkeypatch):
    monkeypatch.setattr(TorchHost, "free_memory", lambda self: 2**20)
    model = Model(FlowMap(build(replace(RRDB, blocks=6))), PixelCodec(2))
    assert make_plan(model, (8192, 8192), TorchHost(torch.device("cpu"))).tile == model.network.receptive_radius == 94


@pytest.mark.parametrize("config", [COMPACT, RRDB])
def test_a_model_is_rebuilt_from_its_configuration(config):
    model = Model(FlowMap(build(config)), PixelCodec(config.unshuffle))
    again = Model.from_config(model.config())
    assert again.network.config == config
    assert type(again.network) is NETWORKS[type(model.network).__name__]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (CompactNetConfig, {"width": 0}, "at least 1"),
        (CompactNetConfig, {"layers": -1}, "layers"),
        (RRDBNetConfig, {"unshuffle": 3}, "unshuffle is 3"),
        (RRDBNetConfig, {"growth": 0}, "growth"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
