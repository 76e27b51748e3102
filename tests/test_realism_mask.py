"""Where to be faithful: a mask blends a result with the posterior mean, to the bit at its ends."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.codecs import PixelCodec, VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.method.looks import Look
from flowmapsr.flowmapsr_core.method.methods import CTMSR, FlowMapMethod
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, LocalNet, UNet
from flowmapsr.flowmapsr_core.upscaling.pipeline import upscale_latent
from flowmapsr.flowmapsr_core.upscaling.realism_mask import read_mask
from PIL import Image

WHITE, BLACK = torch.ones(1, 1, 90, 122), torch.zeros(1, 1, 90, 122)
PLAIN = {"scale": 2, "look": "vivid", "color": "none"}


@pytest.fixture
def ramp():
    """From black on the left to white on the right, of an image of 90x122."""
    return torch.linspace(0, 1, 122).expand(1, 1, 90, 122)


@pytest.fixture
def noisy_model(small_model):
    """One that starts from noise and sees LR beside it."""
    torch.manual_seed(1)
    method = FlowMapMethod(noise=0.2, condition=True)
    flow = FlowMap(LocalNet(replace(small_model.network.config, inputs=2)), method)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Model(flow.requires_grad_(False).eval(), small_model.codec)


def evaluations(model, image, **settings):
    """What a run counts in all, and what it has counted at its end."""
    seen = []
    upscale(model, image, progress=lambda done, total, _: seen.append((done, total)), **settings)
    return seen[-1]


@pytest.mark.parametrize("settings", [PLAIN, {"scale": 1.5}, {"scale": 2, "steps": 1, "realism": 0.4}])
def test_white_is_no_mask_and_black_realism_0_to_the_bit(small_model, photo, settings):
    plain = upscale(small_model, photo, **settings)
    faithful = upscale(small_model, photo, **settings | {"realism": 0.0})
    assert (plain - faithful).abs().max() > 1e-3
    assert torch.equal(upscale(small_model, photo, realism_mask=WHITE, **settings), plain)
    assert torch.equal(upscale(small_model, photo, realism_mask=BLACK, **settings), faithful)
    for mask in (WHITE, BLACK, WHITE / 2):
        again = upscale(small_model, photo, realism_mask=mask, **settings | {"realism": 0.0})
        assert torch.equal(again, faithful)


def test_a_mask_costs_one_evaluation_where_it_is_both(small_model, photo, ramp):
    counts = [evaluations(small_model, photo, realism_mask=mask, tile=0, **PLAIN) for mask in (WHITE, BLACK, ramp)]
    assert counts == [(4, 4), (1, 1), (5, 5)]
    both, masks = torch.cat([photo, photo]), torch.cat([WHITE, ramp])
    assert evaluations(small_model, both, realism_mask=masks, tile=0, **PLAIN) == (9, 9)


@pytest.mark.parametrize("kind", ["plain", "noisy"])
def test_gray_is_the_blend_of_both_pixel_by_pixel(small_model, noisy_model, photo, ramp, kind):
    """Of pixels, before their colours are corrected: the latents are the image."""
    model = {"plain": small_model, "noisy": noisy_model}[kind]
    settings = PLAIN | {"seed": 3}
    white = upscale(model, photo, **settings)
    black = upscale(model, photo, realism=0.0, **settings)
    halves = upscale(model, photo, realism_mask=WHITE / 2, **settings)
    # results are clamped, and the blend is taken before that
    inside = ((white > 0) & (white < 1) & (black > 0) & (black < 1)).all(dim=1, keepdim=True)
    assert inside.float().mean() > 0.2
    assert torch.allclose(halves * inside, (white + black) / 2 * inside, atol=1e-5)
    for mask in (ramp, F.interpolate(ramp, scale_factor=2, mode="bilinear")):
        fine = F.interpolate(mask, (180, 244), mode="bilinear")
        expected = torch.lerp(black, white, fine)
        result = upscale(model, photo, realism_mask=mask, **settings)
        assert torch.allclose(result * inside, expected * inside, atol=1e-5)


def test_a_hard_edge_leaves_both_sides_to_the_bit(small_model, photo):
    """No seam: a pixel is its own side's as if there were no other, but for colours, which are corrected afterwards."""
    mask = F.interpolate(BLACK, (180, 244))
    mask[..., 100:] = 1
    result = upscale(small_model, photo, realism_mask=mask, **PLAIN)
    assert torch.equal(result[..., 100:], upscale(small_model, photo, **PLAIN)[..., 100:])
    assert torch.equal(result[..., :100], upscale(small_model, photo, realism=0.0, **PLAIN)[..., :100])


@pytest.mark.parametrize("tile", [32, 64, 100])
def test_any_tile_gives_the_same_picture(small_model, noisy_model, photo, ramp, tile):
    for model in (small_model, noisy_model):
        whole = upscale(model, photo, 2, realism_mask=ramp, seed=5, tile=0)
        assert torch.allclose(upscale(model, photo, 2, realism_mask=ramp, seed=5, tile=tile), whole, atol=1e-5)


def test_each_image_of_a_batch_has_its_mask(small_model, photo, ramp):
    images = torch.cat([photo, photo.flip(3), 1 - photo])
    masks = torch.cat([ramp, BLACK, WHITE])
    batch = upscale(small_model, images, 2, realism_mask=masks)
    one_for_all = upscale(small_model, images, 2, realism_mask=ramp)
    for index in range(3):
        image = images[index][None]
        assert torch.equal(batch[index], upscale(small_model, image, 2, realism_mask=masks[index][None])[0])
        assert torch.equal(one_for_all[index], upscale(small_model, image, 2, realism_mask=ramp)[0])


def test_a_mask_of_a_method_with_one_evaluation(small_model, photo, ramp):
    torch.manual_seed(1)
    flow = FlowMap(LocalNet(replace(small_model.network.config, inputs=2)), CTMSR(0.5)).requires_grad_(False)
    model = Model(flow, small_model.codec)
    assert evaluations(model, photo, realism_mask=ramp, tile=0, **PLAIN) == (2, 2)
    assert torch.equal(upscale(model, photo, realism_mask=WHITE, **PLAIN), upscale(model, photo, **PLAIN))


def test_a_vaes_cell_takes_the_mean_of_its_pixels(photo, generator):
    torch.manual_seed(0)
    codec = VAECodec(VAECodecConfig(block_out_channels=(32, 32), latent_channels=4))
    flow = FlowMap(UNet(PRESETS["tiny"])).requires_grad_(False)
    model = Model(flow, codec)
    for parameter in flow.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    image, look = photo[..., :33, :47], Look(2, 1.0, 0.0)
    white, black = (upscale_latent(model, image, replace(look, realism=value)) for value in (1.0, 0.0))
    mask = torch.rand(1, 1, 33, 47, generator=generator)
    result = upscale_latent(model, image, look, realism_mask=mask)
    assert white.shape == (1, 4, 17, 24)
    expected = torch.lerp(*(latent[..., :16, :23] for latent in (black, white)), F.avg_pool2d(mask, 2))
    assert torch.allclose(result[..., :16, :23], expected)


def test_latents_take_the_mask_of_the_image_before_it_was_enlarged(small_model, photo, ramp):
    """Who samples an image at its final size may have painted on what it was made of."""
    enlarged = F.interpolate(photo, (213, 289), mode="bicubic").clamp(0, 1)  # 2.37 times
    look = Look(2, 1.0, 0.0)
    fine = F.interpolate(ramp, (213, 289), mode="bilinear")
    small, large = (upscale_latent(small_model, enlarged, look, realism_mask=mask) for mask in (ramp, fine))
    assert torch.allclose(small, large, atol=1e-5)
    for wrong in ((1, 1, 64, 64), (1, 1, 213, 280), (1, 1, 426, 578)):
        with pytest.raises(UserError, match=r"image's 289x213, or a smaller one of that shape"):
            upscale_latent(small_model, enlarged, look, realism_mask=torch.zeros(wrong))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 90, 121), "the realism mask is 121x90 pixels; give one of the image's 122x90, or one of the output's "
         "244x180"),
        ((1, 1, 122, 90), "is 90x122 pixels"), ((1, 1, 45, 61), "is 61x45 pixels"),
        ((1, 3, 90, 122), r"has shape \(1, 3, 90, 122\); give \(batch, 1, height, width\)"),
        ((90, 122), "has shape"), ((2, 1, 90, 122), "there are 2 realism masks for 1 images; give one for all"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(small_model, photo, shape, message):
    with pytest.raises(UserError, match=message):
        upscale(small_model, photo, 2, realism_mask=torch.zeros(shape))


def test_weights_of_latents(generator):
    mask = torch.rand(2, 1, 6, 8, generator=generator)
    codec = PixelCodec(2)
    image = mask.expand(-1, 3, -1, -1)
    assert torch.equal(codec.weights(mask), (codec.encode(image) + 1) / 2)
    assert codec.weights(mask).shape == (2, 12, 3, 4)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path, photo):
    """The photograph as a file."""
    path = tmp_path / "in.png"
    Image.fromarray((photo[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def as_image(mask, bits=8):
    values = (mask[0, 0] * (2**bits - 1)).round().int().numpy()
    return Image.fromarray(values.astype("uint16" if bits == 16 else "uint8"))


def test_the_command_takes_a_mask_from_any_kind_of_image(source, tmp_path, ramp, photo):
    files = {"gray.png": as_image(ramp), "deep.png": as_image(ramp, 16), "color.webp": as_image(ramp).convert("RGB")}
    opaque, transparent = (as_image(ramp).convert("RGBA"), as_image(WHITE).convert("RGBA"))
    transparent.putalpha(as_image(ramp))
    files |= {"opaque.png": opaque, "transparent.png": transparent}
    expected = (ramp * 255).round() / 255
    for name, image in files.items():
        image.save(tmp_path / name, lossless=True)
        tolerance = 1e-6 if name != "deep.png" else 1 / 255
        assert torch.allclose(read_mask(tmp_path / name), expected, atol=tolerance), name
    masked, white = tmp_path / "masked.png", tmp_path / "white.png"
    as_image(WHITE, 16).save(white)
    options = ("--scale", 2, "--look", "vivid", "--dtype", "float32", "--quiet", "--output")
    assert run("upscale", source, "--realism-mask", tmp_path / "gray.png", *options, masked) == 0
    assert run("upscale", source, "--realism-mask", white, *options, tmp_path / "as-white.png") == 0
    assert run("upscale", source, *options, tmp_path / "plain.png") == 0
    pictures = {name: read_picture(tmp_path / f"{name}.png").color for name in ("masked", "as-white", "plain")}
    assert torch.equal(pictures["as-white"], pictures["plain"])
    same = upscale(load_model(), read_picture(source).color, 2, look="vivid", realism_mask=expected)
    assert (pictures["masked"] - same).abs().max() <= 0.5 / 255 + 1e-5


def test_bad_masks_are_a_line_and_lose_nothing(source, tmp_path, capsys):
    output = tmp_path / "out.png"
    output.write_bytes(b"was here before")
    (tmp_path / "small.png").write_bytes(b"")
    as_image(WHITE[..., :50]).save(tmp_path / "narrow.png")
    for options, words in (
        (
            ("--realism-mask", tmp_path / "narrow.png"),
            "the realism mask is 50x90 pixels; give one of the image's 122x90",
        ),
        (("--realism-mask", tmp_path / "small.png"), "small.png is empty"),
        (("--realism-mask", tmp_path / "none.png"), "none.png: no such file"),
        (("--realism", "1.5"), "realism is 1.5; use a value from 0"),
        (("--realism", "nan"), "realism is nan"),
        (("--seed", "-1"), "the seed is -1"),
    ):
        assert run("upscale", source, "--output", output, "--scale", 2, "--quiet", *options) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("flowmapsr: error: ")
        assert words in line
        assert output.read_bytes() == b"was here before"


def test_in_a_folder_the_mask_has_to_fit_each_image(source, tmp_path, capsys):
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    Image.open(source).save(folder / "a.png")
    Image.open(source).resize((40, 30)).save(folder / "b.png")
    as_image(WHITE).save(tmp_path / "mask.png")
    arguments = ("upscale", folder, "--output", output, "--scale", 1, "--realism-mask", tmp_path / "mask.png")
    assert run(*arguments, "--quiet") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "b.png: the realism mask is 122x90 pixels; give one of the image's 40x30" in line
    assert [path.name for path in output.iterdir()] == ["a.png"]
