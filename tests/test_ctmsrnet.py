"""The network of CTMSR against what its parts are defined to be; its authors' code is not needed for that."""

import math

import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.flow import flow_map
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import CTMSRNet, CTMSRNetConfig, flops
from flowmapsr.flowmapsr_core.networks.windows import WindowLayer
from live_memory import LiveMemory

TINY = CTMSRNetConfig(widths=(8, 16), blocks=1, attention_width=32, heads=2, window=4)
CODEC = PixelCodec(4)


def random_weights(module):
    """Every weight and bias counts."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False).eval()


@pytest.fixture
def network():
    return random_weights(CTMSRNet(TINY))


@pytest.fixture
def picture():
    """What a network paints last, of every call."""
    painted = []

    def watch(network):
        network.last.register_forward_hook(lambda module, inputs, output: painted.append(output))
        return painted

    return watch


def state(generator, height=8, width=16, batch=1, dtype=torch.float32):
    """A noisy image and LR on the HR grid, of so many LR pixels."""
    lr = torch.rand(batch, 3, height, width, generator=generator, dtype=dtype)
    y = CODEC.encode(resize(lr, (4 * height, 4 * width)))
    return torch.cat([y + torch.randn(y.shape, generator=generator, dtype=dtype), y], dim=1), lr * 2 - 1


def arguments(t, dtype=torch.float32, dim=TINY.prompt_dim):
    return t, torch.zeros_like(t), torch.zeros(len(t), dim, dtype=dtype), torch.ones_like(t)


# --------------------------------------------------------------------------------------------------------- its inputs


def test_it_sees_the_noisy_image_and_the_lr_image_that_was_enlarged(network, generator):
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x, lr = state(generator)
    network(x, *arguments(torch.ones(1)))
    assert torch.equal(seen[0][:, :48], x[:, :48])
    assert torch.allclose(seen[0][:, 48:], lr, atol=1e-5)


@pytest.mark.parametrize("t", [1.0, 1 / 3, 0.0])
def test_the_time_reaches_it_as_a_logarithm_and_no_other_number_does(network, t):
    """Sines before cosines of log(t + 0.002) / 4, frequencies from 1 down to 1e-4."""
    times = torch.tensor([t])
    angles = math.log(t + 0.002) / 4 * 1e-4 ** (torch.arange(4) / 3)
    condition = network.embed(*arguments(times))
    assert torch.allclose(condition[:, :-1], network.time(torch.cat([angles.sin(), angles.cos()])[None]), atol=1e-6)
    assert torch.equal(network.embed(times, times, torch.zeros(1, 32), 3 * times), condition)
    prompted = network.embed(times, times, torch.full((1, 32), 0.5), times)
    assert torch.allclose(prompted - condition, torch.tensor([0.5] * 32 + [0.0]), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- its output


@torch.no_grad()
@pytest.mark.parametrize("t", [1.0, 2 / 3, 0.1])
def test_a_jump_gives_what_its_authors_parametrisation_gives(network, generator, picture, t):
    """``f = c_skip x + c_out F`` with F what the network paints (arXiv 2503.20349, equation 9)."""
    painted = picture(network.double())
    x, _ = state(generator, dtype=torch.float64)
    flow = FlowMap(network, CTMSR())
    flow.dtype = torch.float64
    times = torch.tensor([t], dtype=torch.float64)
    result = flow_map(flow.velocity(), x, times, torch.zeros_like(times))
    q = t / 0.1
    c_skip, c_out = 0.25 / (q**2 + 0.25), q / math.sqrt(q**2 + 0.25)
    expected = c_skip * x[:, :48] + c_out * F.pixel_unshuffle(painted[0], 4)
    assert (result[:, :48] - expected).abs().max() < 1e-6  # the embedding takes times in float32
    assert torch.equal(result[:, 48:], x[:, 48:])


def test_sizes_that_windows_do_not_divide_are_continued_by_reflection(network, generator):
    x, _ = state(generator, 8, 16)
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    part = x[..., :6, :11]
    result = network(part, *arguments(torch.ones(1)))
    assert result.shape == (1, 48, 6, 11)
    inside = seen[0][..., :6, :11]
    assert torch.equal(seen[0], F.pad(inside, (0, 5, 0, 2), mode="reflect"))
    assert torch.equal(inside[:, :48], part[:, :48])
    for height, width in ((1, 1), (2, 33)):  # what torch's padding refuses: further than the picture is long
        assert network(x[..., :1, :1].expand(-1, -1, height, width), *arguments(torch.ones(1))).isfinite().all()


def test_the_authors_network_is_counted(network):
    with torch.device("meta"):
        published = CTMSRNet()
    assert sum(weights.numel() for weights in published.parameters()) == pytest.approx(171.5e6, rel=1e-3)
    assert flops(published, 64, 64) / 2 == pytest.approx(153e9, rel=0.02)


# -------------------------------------------------------------------------------------------------------- its windows


@torch.no_grad()
def test_a_cell_attends_to_its_window(generator):
    """Cell by cell and head by head, in float64."""
    layer = random_weights(WindowLayer(outer=6, width=32, heads=2, window=4)).double()
    h = torch.randn(1, 32, 8, 12, generator=generator, dtype=torch.float64)
    expected = torch.empty_like(h)
    qkv = layer.qkv(h.permute(0, 2, 3, 1))[0]
    for y in range(8):
        for x in range(12):
            top, left = y // 4 * 4, x // 4 * 4
            cells = [(i, j) for i in range(top, top + 4) for j in range(left, left + 4)]
            heads = []
            for head in range(2):
                query, keys, values = (
                    part[head * 16 : head * 16 + 16] if part.dim() == 1 else part[:, head * 16 : head * 16 + 16]
                    for part in (
                        qkv[y, x, :32],
                        torch.stack([qkv[i, j, 32:64] for i, j in cells]),
                        torch.stack([qkv[i, j, 64:] for i, j in cells]),
                    )
                )
                offsets = torch.stack([layer.table[(y - i + 3) * 7 + x - j + 3, head] for i, j in cells])
                heads.append((keys @ query / 4 + offsets).softmax(dim=0) @ values)
            expected[0, :, y, x] = layer.out(torch.cat(heads))
    assert torch.allclose(layer._attend(h), expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------ as other networks do


@torch.no_grad()
def test_one_condition_serves_every_tile(network, generator):
    x, _ = state(generator, batch=3)
    together = network.evaluate(x, network.embed(*arguments(torch.ones(1))))
    each = torch.cat([network(tile, *arguments(torch.ones(1))) for tile in x.split(1)])
    assert torch.allclose(together, each, atol=1e-4)
    assert network.bfloat16()(x.bfloat16(), *arguments(torch.ones(3), torch.bfloat16)).dtype == torch.bfloat16


def test_checkpointed_activations_give_the_same_gradient(network, generator):
    x, _ = state(generator)
    network.requires_grad_(True)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(x, *arguments(torch.ones(1))).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.checkpoint_activations()
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    assert all(torch.equal(plain, saving) for plain, saving in zip(*gradients, strict=True))


@torch.no_grad()
def test_the_memory_of_an_evaluation_is_as_declared():
    with torch.device("meta"):
        network = CTMSRNet()
        condition = network.embed(*arguments(torch.ones(1), dim=network.config.prompt_dim))
        with LiveMemory("meta") as memory:
            x = torch.empty(1, 96, 64, 64)
            network.evaluate(x, condition)
    assert memory.peak / 4 / 64**2 == pytest.approx(network.floats_per_cell, rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"widths": 192}, "a list of whole numbers"),
        ({"widths": (192, 0)}, "at least 1"),
        ({"widths": (190, 384)}, "groups"),
        ({"attention_width": 48}, "multiple of 32"),
        ({"inputs": 1}, "must be 2"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        CTMSRNetConfig(**changed)


def test_a_checkpoint_of_it_says_so(network):
    model = Model(FlowMap(network, CTMSR()), CODEC)
    again = Model.from_config(model.config())
    assert again.network.config == TINY
    assert again.method == CTMSR()
    with pytest.raises(ValueError, match="the method stacks 1"):
        Model(FlowMap(network), CODEC)
