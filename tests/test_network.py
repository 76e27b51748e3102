import pytest
import torch
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.method.conditioning import fourier_embedding
from flowmapsr.flowmapsr_core.networks import LocalNet, LocalNetConfig
from flowmapsr.flowmapsr_core.upscaling.tiling import tile_starts, tiling_for


def test_pixel_codec_is_lossless(generator):
    image = torch.rand(2, 3, 8, 12, generator=generator)
    for factor in (1, 2, 4):
        codec = PixelCodec(factor)
        latent = codec.encode(image)
        assert latent.shape == (2, codec.channels, 8 // factor, 12 // factor)
        assert torch.allclose(codec.decode(latent), image, atol=1e-6)


def test_embedding_tells_neighbours_on_the_time_grid_apart():
    grid = fourier_embedding(torch.arange(129) / 128, 64)
    assert grid.dtype == torch.float32
    assert (grid[1:] - grid[:-1]).norm(dim=1).min() > 0.5


def test_a_fresh_network_changes_nothing(generator):
    net = LocalNet()
    x = torch.randn(2, 12, 16, 16, generator=generator)
    times = torch.ones(2), torch.zeros(2)
    assert net(x, *times, torch.zeros(2, 64), torch.ones(2)).abs().max() == 0


def test_brightness_and_colour_change_nothing(small_model, generator):
    x = torch.randn(1, 12, 24, 16, generator=generator)
    color = torch.tensor([0.5, -0.3, 0.1]).repeat_interleave(4).reshape(1, 12, 1, 1)
    arguments = torch.ones(1), torch.zeros(1), torch.zeros(1, 8), torch.ones(1)
    assert torch.allclose(small_model.network(x + color, *arguments), small_model.network(x, *arguments), atol=1e-5)


def test_the_local_mean_follows_a_ramp_from_pixel_to_pixel(small_model):
    """A mean that is the same for all pixels of a cell leaves steps between cells, and they end as a weave."""
    codec = PixelCodec(2)
    ramp = (torch.arange(96.0)[:, None] * 0.004 + torch.arange(96.0) * 0.006).expand(1, 3, 96, 96)
    mean = codec.decode(small_model.network._local_mean(codec.encode(ramp)))
    inside = slice(24, -24)
    assert torch.allclose(mean[..., inside, inside], ramp[..., inside, inside], atol=1e-5)


def test_checkpointed_activations_give_the_same_gradient(small_model, generator):
    x = torch.randn(1, 12, 16, 16, generator=generator)
    arguments = torch.ones(1), torch.zeros(1), torch.zeros(1, 8), torch.ones(1)
    network = small_model.network.requires_grad_(True)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(x, *arguments).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.checkpoint_activations()
    assert all(torch.equal(plain, saving) for plain, saving in zip(*gradients, strict=True))


def test_inputs_of_the_network_all_matter(small_model, generator):
    x = torch.randn(1, 12, 16, 16, generator=generator)
    one, zero = torch.ones(1), torch.zeros(1)
    prompt = torch.zeros(1, 8)
    base = small_model.network(x, one, zero, prompt, one)
    for changed in ((zero, zero, prompt, one), (one, one, prompt, one), (one, zero, prompt + 1, one),
                    (one, zero, prompt, 3 * one)):  # fmt: skip
        assert (small_model.network(x, *changed) - base).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("unshuffle", "encoder", "decoder"), [(2, (0, 1, 1), (1, 1)), (1, (1, 1), (0,)), (4, (1,), ())]
)
def test_receptive_field_is_as_declared(unshuffle, encoder, decoder):
    """A change reaches an aligned tile from the declared radius less one stride, and not from beyond the radius."""
    torch.manual_seed(0)
    widths = (6, 8, 10)[: len(encoder)]
    net = LocalNet(LocalNetConfig(unshuffle, widths, encoder, decoder, head_width=4, condition_dim=8, prompt_dim=4))
    net.double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    radius, stride = net.receptive_radius, net.stride
    start = -(-(radius + 2 * stride) // stride) * stride
    x = torch.randn(1, net.channels, stride, 2 * start, dtype=torch.float64)
    arguments = torch.ones(1), torch.zeros(1), torch.zeros(1, 4, dtype=torch.float64), torch.ones(1)
    before = net(x, *arguments)
    changed_at = []
    for column in range(start):
        changed = x.clone()
        changed[..., column] += 1
        if (net(changed, *arguments) - before)[..., start : start + stride].abs().max() > 1e-12:
            changed_at.append(start - column)
    assert radius - stride < max(changed_at) <= radius


@pytest.mark.parametrize("stride", [1, 4])
def test_tiles_cover_everything_and_are_aligned(stride):
    for length in range(stride, 60, stride):
        for tile in range(stride, 70, stride):
            starts = tile_starts(length, tile, stride)
            covered = {cell for start in starts for cell in range(start, start + min(tile, length))}
            assert covered == set(range(length))
            assert all(start % stride == 0 for start in starts)
            assert len(starts) == -(-length // tile)


@pytest.mark.parametrize("tile", [4, 20, 36, 64, 400])
def test_tiling_is_exact(small_model, generator, tile):
    x = torch.randn(1, 12, 140, 108, generator=generator)
    one, zero = torch.ones(1), torch.zeros(1)
    u = small_model.velocity(1.5)
    tiles = tiling_for(small_model.network, tile, overlap=0)
    seen = []
    tiled = tiles.velocity(u, lambda box, x, velocity, t: seen.append(box))(x, one, zero)
    assert (tiled - u(x, one, zero)).abs().max() < 1e-5
    assert seen == tiles.boxes(140, 108)
    assert len(seen) == {4: 17 * 9, 20: 4 * 2, 36: 2 * 2, 64: 2 * 2, 400: 1}[tile]
