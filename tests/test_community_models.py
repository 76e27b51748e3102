"""Upscalers of the community through the whole chain: their own picture, whatever the tiles, and of any factor."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from flowmapsr.flowmapsr_core import UserError, load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.files.upscaler_file import check_upscaler
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.record import read_record
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.networks.held import Held, most_held
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost
from flowmapsr.flowmapsr_core.upscaling.plan import HALOS, make_plan
from flowmapsr.flowmapsr_core.upscaling.tiling import BlendTiling, HaloTiling
from safetensors.torch import save_file
from small_upscalers import compact, esrgan, rcan, save, swinir, unshuffled

CPU = TorchHost(torch.device("cpu"))
STEP = 1 / 255
KINDS = {
    "compact": (compact, 4),
    "compact, x1": (lambda: compact(1), 1),
    "esrgan": (esrgan, 4),
    "esrgan, x2 of an unshuffled picture": (lambda: unshuffled(2), 2),
    "swinir": (swinir, 2),
    "rcan": (rcan, 2),
}
kinds = pytest.mark.parametrize(("make", "scale"), KINDS.values(), ids=KINDS)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def load(tmp_path):
    """Saves an upscaler, and loads it as a model."""

    def saved_and_loaded(upscaler, name="4x-Sharp.safetensors"):
        return load_model(save(upscaler, tmp_path / name))

    return saved_and_loaded


# -------------------------------------------------------------------------------------------------------- the picture


@kinds
def test_at_its_scale_the_picture_is_the_upscalers(make, scale, load, photo):
    lr = photo[..., :64, :72]
    assert torch.allclose(upscale(load(make()), lr, scale), make()(lr).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("scale", [1, 1.37, 3, 8])
def test_any_other_factor_is_its_picture_resized(scale, load, photo):
    lr = photo[..., :23, :17]
    result = upscale(load(esrgan()), lr, scale)
    assert result.shape == (1, 3, round(scale * 23), round(scale * 17))
    assert torch.allclose(result, resize(esrgan()(lr).clamp(0, 1), tuple(result.shape[-2:])).clamp(0, 1), atol=1e-5)


def test_a_batch_is_every_image_and_colours_are_corrected_where_asked(load, photo):
    model, batch = load(compact()), torch.cat([photo, 1 - photo])[..., :20, :24]
    together = upscale(model, batch, 4)
    assert torch.equal(together[1:], upscale(model, batch[1:], 4))
    corrected = upscale(model, batch, 4, color="lr-residual")
    before, after = ((resize(image, (20, 24)) - batch).square().mean() for image in (together, corrected))
    assert after < 0.5 * before


def test_whatever_is_asked_for_it_paints_one_picture_in_one_evaluation(load, photo):
    model, seen = load(compact()), []
    expected = upscale(model, photo, 4)
    mask = torch.rand(1, 1, 90, 122)
    for asked in (
        {"look": "faithful"},
        {"look": "vivid", "realism_mask": mask},
        {"steps": 4, "guidance": 3.0},
        {"realism": 0.5, "seed": 3},
    ):
        seen.clear()
        assert torch.equal(upscale(model, photo, 4, **asked, progress=lambda *call: seen.append(call[:2])), expected)
        assert seen == [(1, 1)]


# -------------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("make", [compact, esrgan, lambda: unshuffled(2), lambda: compact(1)])
def test_convolutions_are_cut_without_a_seam(make, load, photo):
    model, tiles = load(make()), []
    scale, lr = int(model.most_factor), photo[..., :88, :120]
    whole = upscale(model, lr, scale, tile=0)
    tiled = upscale(model, lr, scale, tile=24 * scale, progress=lambda *call: tiles.append(call[:2]))
    assert len(tiles) >= 4
    assert (tiled - whole).abs().max() < STEP / 2


def test_the_reach_is_that_of_the_layers_where_these_are_few(load):
    model = load(compact())  # five convolutions
    assert model.network.receptive_radius == 8
    plan = make_plan(model, (4 * 400, 4 * 400), CPU, tile=4 * 64)
    assert plan.tiling(model) == HaloTiling(64, 8, 1)


@pytest.mark.parametrize("make", [swinir, rcan])
def test_what_sees_everything_is_blended(make, load, photo):
    """By its descriptor, or because a cut is seen everywhere."""
    model, shown = load(make()), []
    plan = make_plan(model, (180, 244), CPU, tile=64)
    assert model.network.receptive_radius is None
    assert isinstance(plan.tiling(model), BlendTiling)
    tiled = upscale(model, photo, 2, tile=64, progress=lambda done, total, preview: shown.append(preview()))
    assert len(shown) == plan.evaluations(model, 1) > 1
    assert shown[-1].shape == photo.shape
    assert 0 < (tiled - upscale(model, photo, 2, tile=0)).abs().mean() < 4 * STEP


def test_half_precision_does_not_hide_how_far_a_network_sees(load):
    model = load(compact())
    model.set_precision(torch.float16)
    assert model.network.receptive_radius == 8
    assert model.network.upscaler.dtype == torch.float16
    with pytest.raises(UserError, match="does not work in bfloat16; choose auto or one of float32, float16"):
        model.set_precision(torch.bfloat16)


def test_wide_halos_have_wide_tiles_where_there_is_memory(load, monkeypatch):
    model = load(esrgan())
    monkeypatch.setattr(type(model.network), "receptive_radius", 72)
    monkeypatch.setattr(type(model.network), "floats_per_cell", 2000)
    for free, side in ((2**36, (HALOS - 2) * 72), (2**26, 72)):
        monkeypatch.setattr(TorchHost, "free_memory", lambda self, free=free: free)
        assert make_plan(model, (8000, 8000), CPU).tile == side


def test_memory_is_what_an_evaluation_holds(load):
    held, result = most_held(lambda: (torch.zeros(1000) + 1).sum())
    assert (held, result.item()) == (8000, 1000)
    network = load(compact()).network
    width, painted = 8, 3 * 16
    assert width <= network.floats_per_cell - 2 * painted <= 4 * painted


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_keeps_what_pictures_have_and_says_what_made_them(photo, tmp_path, capsys):
    upscaler = save(compact(), tmp_path / "4x-Sharp.pth")
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    alpha = torch.linspace(0, 1, 24).expand(1, 1, 20, 24)
    for name in ("a.png", "b.png"):
        write_picture(Picture(photo[..., :20, :24], alpha=alpha, bits=16), folder / name)
    assert run("upscale", folder, "--output", output, "--model", upscaler, "--scale", "3") == 0
    picture, record = read_picture(output / "b.png"), read_record(output / "b.png")
    assert (picture.color.shape[-2:], picture.bits) == ((60, 72), 16)
    assert picture.alpha.std() > 0.2
    assert record["model"] == "4x-Sharp.pth"
    assert record["color"] == "none"
    assert "realism" not in record
    (output / "b.png").unlink()
    capsys.readouterr()
    assert run("upscale", folder, "--output", output, "--model", upscaler, "--scale", "3") == 0
    assert "1 of 2 images upscaled, 1 were there already" in capsys.readouterr().err
    assert run("inspect", upscaler, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["hash_sha256"] == record["hash"]
    assert (described["kind"], described["architecture"], described["scale"]) == ("upscaler", "RealESRGAN Compact", 4)
    assert run("inspect", save(swinir(), tmp_path / "swin.safetensors")) == 0
    assert "kind: upscaler\narchitecture: SwinIR\npurpose: SR\nscale: 2\n" in capsys.readouterr().out


def test_what_has_no_effect_is_said_in_a_line_each(photo, tmp_path, caplog):
    upscaler, source = save(compact(), tmp_path / "sharp.safetensors"), tmp_path / "in.png"
    write_picture(Picture(photo[..., :9, :9]), source)
    command = ["upscale", source, "--output", tmp_path / "out.png", "--model", upscaler, "--verbose"]
    assert run(*command[:-1]) == 0
    assert not caplog.text
    assert run(*command, "--look", "vivid", "--steps", "4", "--guidance", "2", "--scale", "8") == 0
    assert "evaluated at 1, not at 2" in caplog.text
    assert "evaluated once, not 4 times" in caplog.text
    assert "sharp.safetensors paints one picture, whatever the look, the realism and its mask" in caplog.text
    assert "the model paints at x4; to x8 it is enlarged" in caplog.text
    assert "latent of 9x9 cells, untiled; 1 evaluations, " in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora", "lora.safetensors"], "lora.safetensors does not fit this model"),
        (["--vae", "vae.safetensors"], "works on pixels and needs no VAE"),
        (["--invention-map", "map.png"], "has no posterior mean to hold an invention map against"),
        (["--model", "gray.safetensors"], "holds a RealESRGAN Compact from 1 to 1 channels; give one from RGB to RGB"),
        (["--model", "other.safetensors"], "is not a FlowMapSR checkpoint: it holds 1 tensors"),
        (["--model", "short.safetensors"], "is truncated or damaged"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(arguments, message, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = "diffusion_model.layers.0.conv.lora_"
    save_file({f"{layer}down.weight": torch.zeros(1, 8), f"{layer}up.weight": torch.zeros(8, 1)}, "lora.safetensors")
    save_file({"some.thing": torch.zeros(2)}, "other.safetensors")
    save(compact(num_in_ch=1, num_out_ch=1), tmp_path / "gray.safetensors")
    short = save(compact(), tmp_path / "short.safetensors")
    short.write_bytes(short.read_bytes()[:-2000])
    upscaler = save(compact(), tmp_path / "sharp.safetensors")
    write_picture(Picture(photo[..., :9, :9]), tmp_path / "in.png")
    before = sorted(tmp_path.iterdir())
    assert run("upscale", "in.png", "--output", "out.png", "--model", upscaler, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


def test_other_kinds_of_models_are_refused():
    kind = SimpleNamespace(architecture=SimpleNamespace(name="GFPGAN"), purpose="FaceSR")
    with pytest.raises(UserError, match=r"face\.pth holds a GFPGAN for faces; give an upscaler"):
        check_upscaler("face.pth", kind)
    kind.purpose = "Inpainting"
    with pytest.raises(UserError, match="for inpainting"):
        check_upscaler("face.pth", kind)


def test_it_is_not_saved_as_a_checkpoint(load, tmp_path):
    with pytest.raises(UserError, match=r"4x-Sharp\.safetensors is an upscaler, used as it is"):
        save_checkpoint(load(compact()), tmp_path / "copy.safetensors")
    assert not (tmp_path / "copy.safetensors").exists()


def test_says_what_brings_spandrel(tmp_path, capsys, monkeypatch):
    upscaler = save(compact(), tmp_path / "upscaler.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert run("upscale", upscaler, "--output", tmp_path / "out.png", "--model", upscaler) == 2
    assert "pip install 'flowmapsr[upscalers]'" in capsys.readouterr().err
    assert run("inspect", upscaler) == 0
    assert "kind: other" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- cancelled, killed, out of memory


def test_where_memory_runs_out_tiles_are_smaller_and_the_picture_the_same(load, photo, monkeypatch, caplog):
    model, calls = load(compact()), []
    expected, paint = upscale(model, photo, 4), model.network.evaluate

    def evaluate(x, condition):
        calls.append(x.shape[-2:])
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no memory")
        return paint(x, condition)

    monkeypatch.setattr(model.network, "evaluate", evaluate)
    assert (upscale(model, photo, 4) - expected).abs().max() < STEP / 2
    assert calls[1].numel() < calls[0].numel()
    assert "out of memory; once more with less" in caplog.text


def test_cancelled_between_tiles_it_gives_its_memory_back(load, photo):
    model = load(compact())
    upscale(model, photo, 4, tile=128)

    def cancel(done, total, preview):
        if done == 2:
            raise KeyboardInterrupt

    def cancelled():
        with pytest.raises(KeyboardInterrupt):
            upscale(model, photo, 4, tile=128, progress=cancel)

    with Held() as held:
        cancelled()
    gc.collect()
    assert held.most
    assert not held.alive


@pytest.mark.slow
def test_killed_it_leaves_nothing_half_written(photo, tmp_path):
    upscaler, source, output = save(esrgan(), tmp_path / "sharp.safetensors"), tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(50):
        write_picture(Picture(photo[..., :60, :80]), source / f"{number:02}.png")
    command = ["upscale", source, "--output", output, "--model", upscaler, "--quiet"]
    program = "import conftest, sys; from flowmapsr.flowmapsr_core.cli import command; sys.exit(command.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, command)],
        env=os.environ | {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"},
    )
    while not list(output.glob("*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = sorted(output.glob("*.png"))
    assert 0 < len(made) < 50
    assert all(read_picture(path).color.shape == (1, 3, 240, 320) for path in made)
