"""Upscalers of the community, small and random, in the files that people have them in."""

import os
import sys

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.files.convert.enlarged import left_inverse, on_enlargement
from flowmapsr.flowmapsr_core.images.resize import resize
from safetensors.torch import save_file
from small_upscalers import compact, esrgan, made, save, unshuffled
from spandrel.architectures.SPAN import SPAN
from torch import nn
from trainer_process import train

pickles = pytest.mark.skipif(torch.__version__ < (2, 6), reason="torch loads no pickled weights safely yet")


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def lr(photo):
    """A picture that cannot overshoot [0, 1]."""
    return 0.2 + 0.6 * resize(photo, (28, 36)).clamp(0, 1)


# --------------------------------------------------------------------------------------------------- the left inverse


@pytest.mark.parametrize(("factor", "error"), [(1, 1e-4), (2, 1e-1), (3, 4e-3), (4, 4e-3), (8, 4e-3)])
def test_three_cells_of_an_enlarged_row_tell_what_it_was_enlarged_from(factor, error):
    row = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    enlarged = resize(row[None, None, None], (1, 40 * factor))[0, 0, 0]
    inverse = left_inverse(factor, pixels=1)
    cells = nn.functional.pad(enlarged, (factor, factor)).unfold(0, 3 * factor, factor)
    pixels = nn.functional.pad(row, (1, 1)).unfold(0, 3, 1)
    assert (cells @ inverse.T - pixels).abs().max() < error  # of a factor of 2, most and not all
    assert inverse.norm(dim=1).max() < 1.001  # nor does it amplify noise


@pytest.mark.parametrize(("factor", "pixels"), [(4, 1), (2, 2), (1, 4)])
def test_a_convolution_of_the_enlarged_picture_gives_what_it_gave_of_the_picture(factor, pixels, lr):
    torch.manual_seed(0)
    weight = torch.randn(5, 3 * pixels**2, 3, 3, dtype=torch.float64)
    expected = nn.functional.conv2d(nn.functional.pixel_unshuffle(lr.double(), pixels), weight, padding=1)
    hr = resize(lr.double(), (lr.shape[2] * factor, lr.shape[3] * factor))
    cells = nn.functional.pixel_unshuffle(2 * hr - 1, factor * pixels)
    adapted, of_white = on_enlargement(weight, factor)
    found = nn.functional.conv2d(nn.functional.pad(cells, (1, 1, 1, 1), value=-1), adapted, of_white)
    assert (found - expected).abs().max() < 0.02 * expected.std()


# -------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("make", "scale", "decibels"),
    [
        (compact, 4, 45),
        (lambda: compact(3), 3, 45),
        (lambda: compact(2), 2, 20),
        (lambda: compact(1), 1, 60),
        (esrgan, 4, 45),
        (lambda: esrgan(2), 2, 20),
        (lambda: unshuffled(2), 2, 45),
        (lambda: unshuffled(4), 1, 60),
    ],
)
def test_a_converted_upscaler_paints_its_picture(make, scale, decibels, lr, tmp_path):
    original, output = make(), tmp_path / "made.safetensors"
    assert run("convert", save(original, tmp_path / "upscaler.safetensors"), "--output", output) == 0
    model = load_model(output)
    size = lr.shape[2] * scale, lr.shape[3] * scale
    expected = original(lr)
    assert (expected - resize(lr, size)).std() > 0.1  # it does something to the picture
    x1 = model.codec.encode(resize(lr, size))
    u = model.velocity(1.5)(x1, torch.ones(1), torch.zeros(1))
    error = (model.codec.decode(x1 - u) - expected).square().mean()
    assert 10 * torch.log10(expected.var() / error) > decibels
    for other in (
        model.velocity(4.0)(x1, torch.ones(1), torch.ones(1)),
        model.velocity()(x1, *torch.full((2, 1), 0.3)),
    ):
        assert torch.equal(other, u)  # whatever guidance and times
    picture = upscale(model, lr, steps=1, color="none", size=size)
    assert torch.equal(upscale(model, lr, color="none", size=size), picture)  # not upscaled a second time


@pickles
@pytest.mark.parametrize("make", [compact, esrgan])
def test_a_pickled_file_gives_the_same_model(make, lr, tmp_path):
    hashes = []
    for name in ("upscaler.pth", "upscaler.safetensors", "upscaler.safetensors"):
        output = tmp_path / "made.safetensors"
        assert run("convert", save(make(), tmp_path / name), "--output", output) == 0
        hashes.append(describe(output)["modelspec.hash_sha256"])
    assert hashes == hashes[:1] * 3
    model = load_model(output)
    whole, tiled = (upscale(model, lr, 4, steps=1, color="none", tile=tile) for tile in (0, 16))
    assert torch.allclose(whole, tiled, atol=1e-5)
    assert torch.allclose(whole, make()(lr).clamp(0, 1), atol=0.05)


def test_the_file_says_what_it_was_made_of(tmp_path, capsys, caplog):
    output = tmp_path / "made.safetensors"
    upscaler = save(compact(), tmp_path / "4x-Sharp.safetensors")
    assert run("convert", upscaler, "--output", output, "--license", "BSD-3-Clause") == 0
    printed = capsys.readouterr().out
    assert "4x-Sharp.safetensors: an x4 upscaler (RealESRGAN Compact), CompactNetConfig(unshuffle=4, width=8" in printed
    assert f"taken {4 + 3 * 2:7}  layers.0.activation.weight; " in printed
    assert "changed     4  layers.3.conv.bias; layers.3.conv.weight; stem.bias; and 1 more" in printed
    assert f"new   {2 + 4 + 2 + 4 * 2 + 2:7}  base.bias; base.weight; base_modulation.linear.bias; " in printed
    assert "dropped     0\n" in printed
    described = describe(output)
    assert described["modelspec.title"] == "FlowMapSR from 4x-Sharp"
    assert described["modelspec.converted_from"] == "4x-Sharp.safetensors, an x4 upscaler (RealESRGAN Compact)"
    assert described["modelspec.license"] == "BSD-3-Clause"
    assert described["modelspec.architecture"] == "flowmapsr/CompactNet"
    assert described["config"]["codec"] == {"type": "PixelCodec", "factor": 4}
    assert described["dtypes"] == ["F32"]
    assert not caplog.text
    assert run("convert", upscaler, "--output", output, "--dtype", "float16") == 0
    assert describe(output)["dtypes"] == ["F16"]
    assert "Real-ESRGAN's are under BSD-3-Clause" in caplog.text


@pytest.mark.parametrize("make", [compact, esrgan])
def test_training_starts_from_what_the_upscaler_paints(make, lr, photos, tmp_path):
    """Noise in the state is not seen at first, as LR beside it is what the weights were made for."""
    begin, recipe = tmp_path / "begin.safetensors", tmp_path / "recipe.toml"
    assert run("convert", save(make(), tmp_path / "upscaler.safetensors"), "--output", begin) == 0
    recipe.write_text(f"""
start_from = "{begin.as_posix()}"
stages = [{{ kind = "flow-matching", steps = 1 }}, {{ kind = "self-distillation", steps = 1 }}]
data = {{ photos = "{photos.as_posix()}", budgets = [{{ side = 32, batch = 4 }}] }}
times = {{ jumps = 0.5 }}
model = {{ method = {{ type = "flow-map", noise = 0.2, condition = true }} }}
optimizer = {{ lr = 1e-12, ema = 0, checkpoint_activations = true }}
output = {{ folder = "{(tmp_path / "run").as_posix()}", tracker = "none" }}
""")
    assert train(recipe).status == 0
    model = load_model(tmp_path / "run" / "model.safetensors")
    before, after = (upscale(m, lr, 4, steps=1, color="none", seed=3) for m in (load_model(begin), model))
    assert model.method.noise == 0.2
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(after, make()(lr).clamp(0, 1), atol=0.05)


# ---------------------------------------------------------------------------------------------------------- bad input


class Code:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def with_code(path):
    torch.save({"params": compact().state_dict(), "more": Code(path.parent / "pwned")}, path)


def cut_short(path):
    save(compact(), path)
    path.write_bytes(path.read_bytes()[:-2000])


def incomplete(path):
    save_file({name: weight for name, weight in compact().state_dict().items() if "body.4" not in name}, path)


BAD = {
    "code.pth": (with_code, "holds more than weights, which might be code"),
    "short.pth": (cut_short, "is pickled, and truncated or damaged"),
    "short.safetensors": (cut_short, "is truncated or damaged"),
    "part.safetensors": (incomplete, "looks like an upscaler, but is damaged or incomplete"),
    "list.pth": (lambda path: torch.save([torch.zeros(2)], path), "holds no weights by name, but a list"),
    "other.pth": (lambda path: torch.save({"some.thing": torch.zeros(2)}, path), "a pickled file of something else"),
    "other.safetensors": (lambda path: save_file({"some.thing": torch.zeros(2)}, path), "is neither"),
    "span.safetensors": (
        lambda path: save(made(SPAN, num_in_ch=3, num_out_ch=3, feature_channels=8), path),
        "is an x4 upscaler (SPAN), for which there is no network here; give an ESRGAN or a Compact model",
    ),
    "plus.safetensors": (lambda path: save(esrgan(plus=True), path), "(ESRGAN), for which there is no network here"),
    "gray.safetensors": (
        lambda path: save(compact(num_in_ch=1, num_out_ch=1), path),
        "(RealESRGAN Compact) from 1 to 1 channels; give one of colour pictures",
    ),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pickles if name.endswith("pth") else ()) for name in BAD])
def test_says_what_is_wrong_with_a_file(name, tmp_path, capsys):
    write, message = BAD[name]
    write(tmp_path / name)
    assert run("convert", tmp_path / name, "--output", tmp_path / "made.safetensors") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert name in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # nothing made, no code run


def test_says_that_an_upscaler_has_no_use_for_a_vae(tmp_path, capsys):
    upscaler = save(compact(), tmp_path / "upscaler.safetensors")
    assert run("convert", upscaler, "--output", tmp_path / "made.safetensors", "--vae", tmp_path) == 2
    assert "takes no VAE and reads no text; leave out both" in capsys.readouterr().err


def test_says_what_brings_spandrel(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    upscaler = save(compact(), tmp_path / "upscaler.safetensors")
    assert run("convert", upscaler, "--output", tmp_path / "made.safetensors") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'flowmapsr[upscalers]'" in line
