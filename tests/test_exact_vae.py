import pytest
import torch
from flowmapsr.flowmapsr_core.codecs.exact_vae import decode, encode
from flowmapsr.flowmapsr_core.codecs.exact_vae.activations import Moments
from flowmapsr.flowmapsr_core.errors import UserError
from live_memory import LiveMemory

diffusers = pytest.importorskip("diffusers")

TWO_BLOCKS = {"block_out_channels": (16, 32), "norm_num_groups": 4}
FOUR_BLOCKS = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "layers_per_block": 2}
PLAIN = {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False, "act_fn": "gelu"}
CONFIGS = [TWO_BLOCKS, FOUR_BLOCKS, TWO_BLOCKS | PLAIN]


def make_vae(config, down="DownEncoderBlock2D", up="UpDecoderBlock2D"):
    """An AutoencoderKL in which every weight and bias counts."""
    torch.manual_seed(0)
    blocks = len(config["block_out_channels"])
    vae = diffusers.AutoencoderKL(down_block_types=(down,) * blocks, up_block_types=(up,) * blocks, **config)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() == 1 else 0.02))
    return vae.requires_grad_(False).eval()


def largest_error(a, b):
    assert a.shape == b.shape
    return (a.float() - b.float()).abs().max().item()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_bands_of_any_height_decode_and_encode_as_diffusers_does(config, rows, generator):
    vae = make_vae(config)
    latent = torch.randn(2, 4, 13, 9, generator=generator)
    image = torch.rand(2, 3, 43, 29, generator=generator) * 2 - 1
    before = latent.clone(), image.clone()
    assert largest_error(decode(vae, latent, rows), vae.decode(latent).sample) < 1e-4
    assert largest_error(encode(vae, image, rows), vae.encode(image).latent_dist.mode()) < 1e-4
    assert torch.equal(latent, before[0])
    assert torch.equal(image, before[1])


def test_the_difference_is_rounding_alone(generator):
    vae = make_vae(FOUR_BLOCKS).double()
    latent = torch.randn(1, 4, 11, 6, generator=generator).double()
    image = torch.rand(1, 3, 50, 41, generator=generator).double()
    assert (decode(vae, latent, 3) - vae.decode(latent).sample).abs().max() < 1e-10
    assert (encode(vae, image, 3) - vae.encode(image).latent_dist.mode()).abs().max() < 1e-10


def test_bfloat16_is_as_near_to_float32_as_untiled(generator):
    vae = make_vae(TWO_BLOCKS)
    latent = torch.randn(1, 4, 20, 16, generator=generator).bfloat16()
    exact = vae.decode(latent.float()).sample
    vae = vae.bfloat16()
    result = decode(vae, latent, 5)
    assert result.dtype == torch.bfloat16
    assert largest_error(result, exact) < 1.5 * largest_error(vae.decode(latent).sample, exact)


def test_statistics_of_bands_are_those_of_the_whole(generator):
    x = torch.randn(2, 12, 101, 30, generator=generator) * 3 + 1000
    x += torch.arange(12.0)[:, None, None] * 10 + torch.arange(101.0)[:, None]
    moments = Moments()
    for band in x.split(4, dim=2):
        moments.add(band)
    mean, variance = moments.of_groups(3)
    groups = x.double().unflatten(1, (3, 4)).flatten(2)
    assert torch.allclose(mean[..., 0].double(), groups.mean(2), rtol=1e-6)
    assert torch.allclose(variance[..., 0].double(), groups.var(2, correction=0), rtol=1e-5)


def test_progress_counts_bands_up_to_the_total(generator):
    vae = make_vae(FOUR_BLOCKS)
    for function, x in ((decode, torch.randn(1, 4, 5, 4)), (encode, torch.randn(1, 3, 43, 29))):
        seen = []
        function(vae, x, 4, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == [(k, len(seen)) for k in range(1, len(seen) + 1)]
        assert len(seen) > 60


def test_raising_from_progress_cancels():
    calls = []

    def cancel(done, total):
        calls.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(make_vae(TWO_BLOCKS), torch.randn(1, 4, 8, 8), 2, progress=cancel)
    assert calls == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("function", "shape", "channels", "held"), [(decode, (1, 4, 12, 40), 32, 1.5), (encode, (1, 3, 96, 320), 16, 2.5)]
)
def test_no_more_than_two_activations_are_held(function, shape, channels, held):
    """In units of the largest one, which has full size, the bands at work included."""
    vae = make_vae(FOUR_BLOCKS)
    x = torch.randn(shape)
    with LiveMemory() as banded:
        function(vae, x, 3)
    with LiveMemory() as untiled:
        vae.decode(x) if function is decode else vae.encode(x)
    activation = 4 * channels * 96 * 320
    assert activation < banded.peak < held * activation
    assert untiled.peak > 2 * banded.peak


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bands_in_host_memory_leave_the_device_free(generator):
    vae = make_vae(FOUR_BLOCKS).cuda()
    latent = torch.randn(1, 4, 96, 96, generator=generator).cuda()
    whole = vae.decode(latent).sample
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = decode(vae, latent, 8, offload=True)
    assert torch.cuda.max_memory_allocated() - before < 32 * 768 * 768 * 4 / 4  # a quarter of the largest activation
    assert result.device == latent.device
    assert largest_error(result, whole) < 1e-2  # convolutions may use TF32


def test_bands_in_host_memory_change_nothing(generator):
    vae = make_vae(TWO_BLOCKS)
    latent = torch.randn(1, 4, 13, 9, generator=generator)
    assert torch.equal(decode(vae, latent, 3, offload=True), decode(vae, latent, 3))


def test_structures_it_does_not_know():
    latent, image = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 16, 16)
    attentive = make_vae(TWO_BLOCKS, "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D")
    with pytest.raises(UserError, match="AttnUpDecoderBlock2D"):
        decode(attentive, latent, 4)
    with pytest.raises(UserError, match="AttnDownEncoderBlock2D"):
        encode(attentive, image, 4)
    with pytest.raises(UserError, match="AutoencoderTiny"):
        decode(diffusers.AutoencoderTiny(), latent, 4)
    seamless = make_vae(TWO_BLOCKS)
    seamless.decoder.up_blocks[0].resnets[0].conv1.padding_mode = "circular"
    with pytest.raises(UserError, match="ResnetBlock2D"):
        decode(seamless, latent, 4)
    encode(seamless, image, 4)


def test_arguments_out_of_range():
    vae = make_vae(TWO_BLOCKS)
    with pytest.raises(UserError, match="at least 1"):
        decode(vae, torch.randn(1, 4, 8, 8), 0)
    with pytest.raises(UserError, match="shape"):
        decode(vae, torch.randn(1, 3, 8, 8), 4)
    with pytest.raises(UserError, match="at least 2x2"):
        encode(vae, torch.randn(1, 3, 1, 8), 4)
