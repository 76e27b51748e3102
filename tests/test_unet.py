import copy
import dataclasses
import weakref

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, merge_lora, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.files.lora import lora_names
from flowmapsr.flowmapsr_core.method.flow import flow_map, interpolant, sample
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, LocalNet, LocalNetConfig, UNet, UNetConfig, flops
from flowmapsr.trainer.objectives import lagrangian_target, shortcut_target
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.estimate import _kept
from flowmapsr.trainer.run.loop import train
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

TINY = PRESETS["tiny"]


@pytest.fixture
def fresh():
    torch.manual_seed(0)
    return UNet(TINY).requires_grad_(False).eval()


@pytest.fixture
def network(fresh):
    """A network whose class embedding has learned something."""
    for parameter in fresh.unet.class_embedding.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return fresh


@pytest.fixture
def model():
    """A flow map on pixels, its network like ``network``."""
    torch.manual_seed(0)
    model = Model(FlowMap(UNet(dataclasses.replace(TINY, channels=12))), PixelCodec(2))
    for parameter in model.network.unet.class_embedding.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.flow.requires_grad_(False).eval()
    return model


def conditions(batch=1):
    """t, s, prompt and guidance."""
    times = torch.linspace(1, 0.5, batch)
    return times, times / 2, torch.linspace(-1, 1, TINY.prompt_dim).expand(batch, -1), torch.full((batch,), 2.0)


def latent(batch=1, height=16, width=16, channels=4):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_the_largest_preset_is_as_large_as_lbm():
    with torch.device("meta"):
        network = UNet(PRESETS["xl"])
    assert (network.stride, network.receptive_radius, network.channels) == (4, None, 4)
    weights = {name: parameter.numel() for name, parameter in network.named_parameters()}
    class_embedding = (2 * 256 + 1280 + 1) * 1280 + (1280 + 1) * 1280
    assert sum(count for name, count in weights.items() if ".class_embedding." in name) == class_embedding
    assert sum(weights.values()) == pytest.approx(2.43e9, rel=1e-3)


def test_a_fresh_class_embedding_changes_nothing(fresh):
    x, (t, s, prompt, guidance) = latent(2), conditions(2)
    base = fresh(x, t, s, prompt, guidance)
    for changed in ((s + 0.1, prompt, guidance), (s, prompt + 1, guidance), (s, prompt, guidance + 1)):
        assert torch.equal(fresh(x, t, *changed), base)
    assert not torch.equal(fresh(x, t - 0.1, s, prompt, guidance), base)
    labels = torch.randn(2, 2 * 256 + TINY.prompt_dim)
    theirs = fresh.unet(x, 1000 * t, encoder_hidden_states=None, class_labels=labels).sample
    assert torch.allclose(base, theirs, atol=1e-6)


def test_inputs_of_the_network_all_matter(network):
    x, (t, s, prompt, guidance) = latent(), conditions()
    base = network(x, t, s, prompt, guidance)
    for changed in ((t, s + 0.1, prompt, guidance), (t, s, prompt + 1, guidance), (t, s, prompt, guidance + 1)):
        assert (network(x, *changed) - base).abs().max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(4, 4), (12, 20), (20, 8)])
def test_sizes_are_multiples_of_the_stride(network, height, width):
    x = latent(1, height, width)
    assert network(x, *conditions()).shape == x.shape


@pytest.mark.parametrize("kind", [UNet, LocalNet])
def test_one_condition_serves_every_tile(network, small_model, kind):
    if kind is LocalNet:
        network = small_model.network
    x, (t, s, prompt, guidance) = latent(3, channels=network.channels), conditions()
    condition = network.embed(t, s, prompt, guidance)
    together = network.evaluate(x, condition)
    each = torch.cat([network(tile, t, s, prompt, guidance) for tile in x.split(1)])
    assert torch.allclose(together, each, atol=1e-5)


def test_the_condition_is_computed_once_per_pair_of_times(model, monkeypatch):
    u, calls = model.velocity(2.0), []
    embed = model.network.embed
    monkeypatch.setattr(model.network, "embed", lambda *arguments: calls.append(1) or embed(*arguments))
    one, half, zero = torch.ones(1), torch.full((1,), 0.5), torch.zeros(1)
    x = latent(3, channels=12)
    first = u(x, one, half)
    assert torch.equal(u(x, one, half), first)
    assert len(calls) == 1
    second = u(x, half, zero)
    assert len(calls) == 2
    assert (second - first).abs().max() > 1e-4
    per_sample = model.flow(x, one.expand(3), half.expand(3), torch.full((3,), 2.0), torch.zeros(3, dtype=torch.bool))
    assert torch.allclose(first, per_sample, atol=1e-5)
    assert torch.allclose(flow_map(u, x, one, half), x - 0.5 * first)
    assert torch.allclose(interpolant(x, -x, half), torch.zeros_like(x), atol=1e-6)


def test_times_stay_apart_in_bfloat16(network):
    """1000 t is off by up to 2 in bfloat16; the finest grid is 1/128."""
    network.to(torch.bfloat16)
    t, s, exact_prompt, guidance = conditions()
    prompt = exact_prompt.bfloat16()
    one, near = (network.embed(torch.tensor([time]), s, prompt, guidance) for time in (1.0, 1 - 1 / 128))
    assert one.dtype == torch.bfloat16
    assert (one - near).abs().max() > 1e-2
    exact = UNet(TINY)
    exact.load_state_dict(network.state_dict())
    close = exact.embed(torch.tensor([1 - 1 / 128]), s, exact_prompt, guidance)
    assert torch.allclose(near.float(), close, atol=2e-2)
    assert (one - near).float().norm() > 5 * (near.float() - close).norm()
    assert network(latent().bfloat16(), t, s, prompt, guidance).dtype == torch.bfloat16


def test_a_checkpoint_gives_the_same_model_back(model, tmp_path):
    save_checkpoint(model, tmp_path / "unet.safetensors")
    again = load_model(tmp_path / "unet.safetensors")
    assert again.network.config == model.network.config
    x = latent(1, channels=12)
    results = [sample(each.velocity(1.5), x, 2) for each in (model, again)]
    assert torch.allclose(*results, atol=1e-5)


class LiveTensors(TorchDispatchMode):
    """Counts the numbers that are alive, at most."""

    def __init__(self, weights):
        super().__init__()
        self.known = {weight.untyped_storage()._cdata: 0 for weight in weights}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.known[storage._cdata] = storage.nbytes() // tensor.element_size()
                self.now += self.known[storage._cdata]
                weakref.finalize(storage, self.free, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def free(self, key):
        self.now -= self.known.pop(key)


@pytest.mark.parametrize(
    "change", [{}, {"layers": 2}, {"depth": (0, 0, 1), "layers": 2}, {"depth": (1, 1, 1), "heads": (2, 2, 2)}]
)
def test_memory_is_predicted(change):
    network = UNet(dataclasses.replace(TINY, **change)).requires_grad_(False)
    x, condition = latent(1, 32, 32), network.embed(*conditions())
    with LiveTensors(network.parameters()) as live:
        network.evaluate(x, condition)
    assert live.peak / (32 * 32) == pytest.approx(network.floats_per_cell, rel=0.02)


def count(network, x, *arguments):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.evaluate(x, network.embed(*arguments))
    return counter.get_total_flops()


def test_flops_are_those_of_an_evaluation(network, small_model):
    embedding = 2 * ((16 + 64) * 64 + (2 * 256 + TINY.prompt_dim + 64) * 64)
    assert count(network, latent(1, 16, 24), *conditions()) == flops(network, 16, 24) + embedding
    convolutions = LocalNet(LocalNetConfig(1, (5,), (0,), (), head_width=4, condition_dim=7, prompt_dim=8))
    modulation = 2 * 7 * 2 * 5
    per_pixel = 2 * (
        3 * 3 * 3 * 5 + 5 * 4 + 3 * 3 * (5 * 4 + 7 * 4 + 4 * 3)
    )  # stem, head: gate, features, value, output
    assert flops(convolutions, 6, 10) == 60 * per_pixel + modulation


def double(network):
    """The velocity in float64, small enough in s for differences of float32 embeddings."""
    network.double()
    t, _, prompt, guidance = conditions(2)
    return t.double(), lambda x, t, s: network(x, t, s, prompt.double(), guidance)


def test_jvp_runs_through_attention(network):
    t, u = double(network)
    x, s, step = latent(2, 8, 8).double(), t / 2, 3e-4
    target = lagrangian_target(u, x, torch.zeros_like(x), t, s)
    slope = (u(x, t, s + step) - u(x, t, s - step)) / (2 * step)
    jump = (t - s).reshape(2, 1, 1, 1)
    assert torch.allclose(target, u(x - jump * u(x, t, s), s, s) + jump * slope, atol=2e-3)
    assert (jump * slope).abs().max() > 1e-2


def test_checkpointed_activations_give_the_same_gradient(network):
    network.requires_grad_(True).train()
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(latent(2), *conditions(2)).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.checkpoint_activations()
    assert all(torch.allclose(plain, saving, atol=1e-6) for plain, saving in zip(*gradients, strict=True))
    t, u = double(network)
    with torch.no_grad():  # targets are computed without gradient
        shortcut_target(u, latent(2).double(), latent(2).double(), t, t / 2)
        lagrangian_target(u, latent(2).double(), latent(2).double(), t, t / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": 3}, "network.widths must be a list"),
        ({"depth": [0, 1.5, 1]}, "network.depth must be a list of whole numbers"),
        ({"widths": (16, 24)}, "one entry a level"),
        ({"widths": (16, 24, 36)}, "36 does not split into 8 groups"),
        ({"heads": (2, 3, 5)}, "32 does not split into 8 groups and 5 heads"),
        ({"depth": (0, 1, 0)}, "at least 1 at the last level"),
        ({"groups": 0}, "network.groups must be a whole number"),
    ],
)
def test_a_wrong_shape_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_presets_differ_in_size_only():
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in UNet(config).parameters()) for name, config in PRESETS.items()}
    assert 3e7 < sizes["small"] < 6e7
    assert sizes["tiny"] < 1e6
    assert PRESETS["xl"] == UNetConfig()


def test_training_memory_is_that_of_fused_attention(model):
    """Estimated without computing anything; a matrix of attention would grow with the fourth power of the side."""
    model.flow.requires_grad_(True)
    own, kept = {parameter.data_ptr() for parameter in model.flow.parameters()}, {}

    def pack(tensor):
        whole = tensor if tensor._base is None else tensor._base
        if whole.data_ptr() not in own:
            kept[whole.data_ptr()] = whole.numel() * whole.element_size()
        return tensor

    one = torch.ones(2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = model.flow(latent(2, 64, 64, 12), one, one, one, one > 2)
    shapes = copy.deepcopy(model).to("meta")
    assert _kept(shapes, 128, 2, torch.float32) == pytest.approx(sum(kept.values()), rel=0.05)
    del graph
    model.network.checkpoint_activations()
    assert _kept(copy.deepcopy(model).to("meta"), 128, 2, torch.float32) < sum(kept.values()) / 3


RECIPE = """
stages = [
  { kind = "flow-matching", steps = 2 },
  { kind = "self-distillation", steps = 2 },
  { kind = "guided", steps = 2, objective = "lagrangian" },
  { kind = "adversarial", steps = 2 },
]
[model.network]
type = "UNet"
channels = 12
widths = [16, 24, 32]
layers = 1
depth = [0, 1, 1]
heads = [2, 3, 4]
prompt_dim = 8
groups = 8
[model.codec]
type = "PixelCodec"
[[data.budgets]]
side = 64
batch = 4
[times]
jumps = 0.5
[adversarial]
rank = 2
warmup = 1
lr = 1e-2
[optimizer]
warmup = 1
checkpoint_activations = true
[output]
tracker = "none"
"""


def test_every_stage_trains_it(photos, tmp_path):
    """Flow matching, shortcut, lagrangian with guidance, and a LoRA on the attention's projections."""
    pytest.importorskip("peft", reason="LoRA training needs peft")
    recipe, out = tmp_path / "unet.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    assert train(read_recipe(recipe, [f"data.photos={photos}", f"output.folder={out}"])) == out / "lora.safetensors"
    first, last = (load_model(next(out.glob(f"stage-{stage}-*.safetensors"))) for stage in (1, 3))
    changed = {name for name, weight in last.tensors().items() if not torch.equal(weight, first.tensors()[name])}
    assert changed == last.tensors().keys()
    layers = lora_names(out / "lora.safetensors", last)
    assert all(layer.removesuffix(".weight").endswith(UNet.lora_targets) for layer in layers)
    assert len(layers) == 4 * 2 * (1 + 1 + 1 + 2 + 2)  # projections, attentions, transformer blocks
    x = latent(1, channels=12)
    plain = last.velocity(2.0)(x, torch.ones(1), torch.zeros(1))
    merge_lora(last, out / "lora.safetensors", 1.0)
    assert (last.velocity(2.0)(x, torch.ones(1), torch.zeros(1)) - plain).abs().max() > 0
