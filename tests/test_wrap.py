"""Pictures whose opposite edges meet: what is rolled before is as what is rolled after."""

import math

import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.codecs import PixelCodec, TinyVAECodec, TinyVAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.alpha import fill_transparent
from flowmapsr.flowmapsr_core.images.color import METHODS, match_color
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.record import read_record
from flowmapsr.flowmapsr_core.images.resize import RESIZE_MODES, resize
from flowmapsr.flowmapsr_core.images.wrap import surround, without
from flowmapsr.flowmapsr_core.method.looks import LOOKS
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.flowmapsr_core.model import PLAIN, FlowMap, Model
from flowmapsr.flowmapsr_core.networks import CTMSRNet, CTMSRNetConfig, RRDBNet, RRDBNetConfig
from flowmapsr.flowmapsr_core.upscaling.invention import invention_map
from flowmapsr.flowmapsr_core.upscaling.pipeline import upscale_latent
from flowmapsr.flowmapsr_core.upscaling.tiling import BlendTiling, HaloTiling
from local_model import save_local

ONE, ZERO = torch.ones(1), torch.zeros(1)


def roll(image, rows, columns):
    return torch.roll(image, (rows, columns), (-2, -1))


def test_what_surrounds_an_image_is_torchs_padding_and_goes_round_more_than_once(generator):
    image = torch.rand(1, 3, 5, 7, generator=generator)
    assert torch.equal(surround(image, 2, 3, "xy"), F.pad(image, (3, 3, 2, 2), mode="circular"))
    assert torch.equal(surround(image, 2, 3, ""), F.pad(image, (3, 3, 2, 2), mode="replicate"))
    both = F.pad(F.pad(image, (3, 3, 0, 0), mode="circular"), (0, 0, 2, 2), mode="replicate")
    assert torch.equal(surround(image, 2, 3, "x"), both)
    assert torch.equal(surround(image, 12, 0, "y"), roll(image.repeat(1, 1, 6, 1), -3, 0)[:, :, :29])
    assert torch.equal(without(surround(image, 12, 9, "xy"), 12, 9), image)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize(
    ("size", "rolled"), [((24, 40), (4, 6)), ((18, 30), (8, 2)), ((6, 10), (6, 8)), ((12, 7), (5, 20))]
)
def test_resizing_a_rolled_image_is_rolling_the_resized_one(generator, mode, size, rolled):
    image = torch.rand(1, 2, 12, 20, generator=generator)
    moved = [step * wanted / side for step, wanted, side in zip(rolled, size, (12, 20), strict=True)]
    result = resize(roll(image, *rolled), size, mode, "xy")
    assert torch.allclose(result, roll(resize(image, size, mode, "xy"), *map(round, moved)), atol=1e-5)


@pytest.mark.parametrize("wanted", [13, 17, 29, 80, 5])
def test_a_wave_goes_on_across_the_edge_at_any_factor(wanted):
    """Both sides are primes: no roll but a whole one maps pixels to pixels."""
    side = 23

    def waves(count):
        return torch.cos(math.tau * (torch.arange(count) + 0.5) / count).expand(1, 1, 4, count)

    whole, cut = (resize(waves(side), (4, wanted), wrap=wrap) for wrap in ("x", ""))
    errors = [(result - waves(wanted)).abs() for result in (whole, cut)]
    inside, edge = errors[0][..., wanted // 4 : -wanted // 4], errors[0][..., [0, -1]]
    assert edge.max() <= 1.5 * errors[0].max()
    assert errors[0].max() < 0.04 * max(side / wanted, 1) ** 2
    assert errors[1][..., [0, -1]].max() > 2 * edge.max() or inside.max() > edge.max()


@pytest.mark.parametrize("method", METHODS)
def test_colours_are_matched_round_the_edge(generator, method):
    if "transport" in method:
        pytest.importorskip("ot")
    lr, sr = torch.rand(1, 3, 32, 48, generator=generator), torch.rand(1, 3, 64, 96, generator=generator)
    expected = roll(match_color(sr, lr, method, wrap="xy"), 16, 24)
    rolled = match_color(roll(sr, 16, 24), roll(lr, 8, 12), method, wrap="xy")
    assert torch.allclose(rolled, expected, atol=2e-4)
    local = method in ("lr-residual", "wavelet", "back-projection", "transport-smooth")
    assert (match_color(sr, lr, method) - roll(expected, -16, -24)).abs().max() > 1e-3 or not local


def test_the_map_of_what_was_invented_goes_round_the_edge(generator):
    result, mean = torch.rand(2, 1, 3, 32, 48, generator=generator)
    source = torch.rand(1, 3, 16, 24, generator=generator)
    expected = roll(invention_map(result, mean, source, wrap="xy"), 8, 20)
    rolled = invention_map(roll(result, 8, 20), roll(mean, 8, 20), roll(source, 4, 10), wrap="xy")
    assert torch.allclose(rolled, expected, atol=1e-4)


def test_what_is_transparent_is_filled_across_the_edge():
    color, alpha = torch.zeros(1, 3, 8, 32), torch.ones(1, 1, 8, 32)
    color[..., -8:], alpha[..., :8] = 1, 0
    assert fill_transparent(color, alpha, "x")[..., 0].min() > fill_transparent(color, alpha)[..., 0].max() + 0.2


@pytest.mark.parametrize("tile", [0, 5, 8, 64])
@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_halos_wrap(generator, wrap, tile):
    """A network that pads with zeros, 2 cells far-sighted, becomes one that pads round the edge."""
    x, weight = torch.rand(1, 2, 12, 20, generator=generator), torch.rand(2, 2, 5, 5, generator=generator)
    tiling = HaloTiling(tile, 2, 1, wrap)
    boxes = tiling.boxes(12, 20)
    assert sum((bottom - top) * (right - left) for top, left, bottom, right in boxes) == 12 * 20
    assert len({(b - t, r - x) for t, x, b, r in (tiling.reads(box, 12, 20) for box in boxes)}) == 1
    padded = surround(x, 2 * ("y" in wrap), 2 * ("x" in wrap), wrap)
    expected = F.conv2d(padded, weight, padding=(2 * ("y" not in wrap), 2 * ("x" not in wrap)))
    found = tiling.velocity(lambda x, t, s: F.conv2d(x, weight, padding=2))(x, ONE, ZERO)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 4), (0, 8), (16, 4), (24, 8), (40, 8), (100, 8)])
def test_blended_tiles_go_round(generator, tile, overlap):
    x = torch.rand(1, 2, 24, 36, generator=generator)
    tiling = BlendTiling(tile, overlap, 4, 3, "xy")
    seen = []
    watch = lambda box, part, velocity, t: seen.append((box, part.shape == velocity.shape))  # noqa: E731
    assert torch.allclose(tiling.velocity(lambda x, t, s: 2 * x, watch)(x, ONE, ZERO), 2 * x, atol=1e-5)
    assert all(same and box[2] <= 24 and box[3] <= 36 for box, same in seen)


def test_a_tile_meets_itself_in_a_raised_cosine():
    """What a single tile says of its first columns and of its last is blended where they meet."""

    def across(x, t, s):
        return torch.linspace(0, 1, x.shape[-1]).expand_as(x)

    x = torch.zeros(1, 1, 4, 32)
    row = BlendTiling(0, 8, 4, 1, "x").velocity(across)(x, ONE, ZERO)[0, 0, 0]
    ramp = torch.sin(torch.pi / 2 * (torch.arange(8) + 0.5) / 8).square()
    line = torch.linspace(0, 1, 40)
    assert torch.allclose(row[:8], ramp * line[:8] + (1 - ramp) * line[32:], atol=1e-6)
    assert torch.allclose(row[8:], line[8:32], atol=1e-6)
    assert roll(row[None], 0, 16)[0].diff().abs().max() < 0.2


def test_a_batch_of_tiles_rolled_by_one_is_the_same(generator):
    x = torch.rand(1, 2, 8, 48, generator=generator)
    u = BlendTiling(20, 4, 4, 2, "x").velocity(lambda x, t, s: x - x.mean(dim=(2, 3), keepdim=True))
    assert torch.allclose(u(roll(x, 0, 16), ONE, ZERO), roll(u(x, ONE, ZERO), 0, 16), atol=1e-5)


@pytest.fixture(scope="module", params=["built-in", "local"])
def model(request, tmp_path_factory):
    """The built-in model, and one of several steps."""
    return load_model(request.param if request.param == "built-in" else save_local(tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize(
    ("scale", "tile", "rows", "columns"),
    [(4, 0, 8, 12), (4, 96, 8, 12), (2, 0, 8, 4), (3, 0, 8, 8), (2.5, 0, 12, 16)],  # whole cells of models and of Trust
)
def test_a_rolled_picture_is_upscaled_to_the_rolled_result(model, photo, scale, tile, rows, columns):
    image = photo[..., :24, :32]
    expected = upscale(model, image, scale, look="faithful", wrap="xy", tile=tile)
    rolled = upscale(model, roll(image, rows, columns), scale, look="faithful", wrap="xy", tile=tile)
    assert expected.shape[-2:] == (round(scale * 24), round(scale * 32))
    assert torch.allclose(rolled, roll(expected, round(scale * rows), round(scale * columns)), atol=1e-4)


def test_away_from_the_edges_it_is_the_picture_that_it_was(model, photo):
    image = photo[..., :12, :]
    # without colours: how far an LR image is trusted depends on all of it
    whole, cut = (upscale(model, image, 4, look="faithful", wrap=wrap, color="none") for wrap in ("x", ""))
    middle = slice(4 * 56, 4 * 66)
    assert (whole - cut)[..., middle].abs().max() < 1e-5
    assert (whole - cut)[..., 0].abs().max() > 1e-3


def make_model(network, codec, method=PLAIN):
    torch.manual_seed(0)
    model = Model(FlowMap(network, method), codec)
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.flow.requires_grad_(False).eval()
    return model


def test_other_networks_wrap_too(photo):
    """RRDBNet exactly; of one that sees all of its input the ends are blended."""
    image = photo[..., :16, :24]
    model = make_model(RRDBNet(RRDBNetConfig(width=8, growth=4, blocks=1)), PixelCodec(4))
    expected = upscale(model, image, 4, wrap="xy")
    assert torch.allclose(upscale(model, roll(image, 4, 8), 4, wrap="xy"), roll(expected, 16, 32), atol=1e-4)
    tiny = CTMSRNetConfig(widths=(8, 16), blocks=1, attention_width=32, heads=2, window=4)
    model = make_model(CTMSRNet(tiny), PixelCodec(4), CTMSR())
    image = resize(roll(photo, 0, 61), (32, 64)).clamp(0, 1)
    whole, cut = (roll(upscale(model, image, 4, wrap=wrap), 0, 128) for wrap in ("x", ""))
    steps = [(result[..., 128] - result[..., 127]).abs().mean() for result in (whole, cut)]
    beside = (whole[..., 125] - whole[..., 124]).abs().mean()
    assert steps[0] < steps[1]
    assert steps[0] < 3 * beside


def test_a_vae_sees_across_the_edge(photo, small_model):
    config = TinyVAECodecConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), latent_channels=12)
    torch.manual_seed(0)
    model = Model(small_model.flow, TinyVAECodec(config))
    image = photo[..., :32, :64]
    expected = upscale(model, image, 2, wrap="x", color="none")
    assert torch.allclose(
        upscale(model, roll(image, 0, 16), 2, wrap="x", color="none"), roll(expected, 0, 32), atol=1e-4
    )


def test_a_mask_wraps(small_model, photo):
    image, mask = photo[..., :24, :32], photo[:, :1, 40:64, 40:72]
    expected = upscale(small_model, image, 2, wrap="xy", realism_mask=mask)
    rolled = upscale(small_model, roll(image, 4, 8), 2, wrap="xy", realism_mask=roll(mask, 4, 8))
    assert torch.allclose(rolled, roll(expected, 8, 16), atol=1e-4)


def test_less_memory_and_cancelling_are_as_without(small_model, photo, monkeypatch):
    image = photo[..., :72, :80]
    expected = upscale(small_model, image, 4, wrap="xy", tile=0)
    evaluate, sides = small_model.network.evaluate, []

    def short_of_memory(x, condition):
        sides.append(x.shape[-1])
        if len(sides) == 1:
            raise torch.OutOfMemoryError("no memory")
        return evaluate(x, condition)

    monkeypatch.setattr(small_model.network, "evaluate", short_of_memory)
    assert torch.allclose(upscale(small_model, image, 4, wrap="xy", tile=0), expected, atol=1e-5)
    assert max(sides[1:]) < sides[0]

    def cancel(done, total, preview):
        assert preview().shape[-1] <= 512
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(small_model, image, 4, wrap="xy", tile=64, progress=cancel)


def test_the_command_says_how_in_the_picture(photo, tmp_path):
    write_picture(Picture(photo[..., :24, :32], (0.5 + photo[:, :1, :24, :32]).clamp(0, 1)), tmp_path / "in.png")
    options = ("--scale", "2", "--look", "faithful", "--dtype", "float32", "--quiet", "--wrap", "xy")
    assert main(["upscale", str(tmp_path / "in.png"), "--output", str(tmp_path / "out.png"), *options]) == 0
    assert read_record(tmp_path / "out.png")["wrap"] == "xy"
    made, source = read_picture(tmp_path / "out.png"), read_picture(tmp_path / "in.png")
    expected = upscale(load_model(), source.color, 2, look="faithful", wrap="xy")
    assert (made.color - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert (made.alpha - resize(source.alpha, (48, 64), wrap="xy").clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-4


def test_what_cannot_wrap_is_said(small_model, photo):
    with pytest.raises(UserError, match=r"along 'z'; choose one of x, y, xy"):
        upscale(small_model, photo, 2, wrap="z")
    with pytest.raises(UserError, match=r"width is 122 pixels; to wrap around it has to be a multiple of 8, as 120"):
        upscale_latent(small_model, photo, LOOKS["faithful"], wrap="x")
    assert upscale_latent(small_model, photo[..., :80, :], LOOKS["faithful"], wrap="y").shape[-2:] == (40, 61)
