"""The ``flowmapsr`` command end to end."""

import json
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flowmapsr import flowmapsr_core
from flowmapsr.flowmapsr_core import UserError, load_model, names, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.cli import upscale as upscale_module
from flowmapsr.flowmapsr_core.files.lora import save_lora
from flowmapsr.flowmapsr_core.files.safetensors_file import read_metadata
from flowmapsr.flowmapsr_core.files.sources import SHIPPED
from flowmapsr.flowmapsr_core.images import color, degradation
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.upscaling import host
from PIL import Image
from safetensors.torch import save_file

EXAMPLE = Path(__file__).parent / "data" / "jetty.png"


@pytest.fixture
def image(tmp_path, photo):
    path = tmp_path / "in.png"
    Image.fromarray((photo[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)
    return path


def run(*arguments):
    """Exit status of the command in this process."""
    return cli.main([str(argument) for argument in arguments])


def pixels(path):
    """What a picture shows; files also say how they were made."""
    return read_picture(path).color.numpy().tobytes()


def test_as_a_user_types_it(image, tmp_path):
    """In a process of its own, through the installed console script where there is one."""
    script = Path(sys.executable).with_name("flowmapsr")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "flowmapsr.flowmapsr_core"]
    done = subprocess.run(
        [*command, "upscale", image, "--output", tmp_path / "out" / "big.png", "--scale", "2.5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "in.png" in done.stderr  # the progress bar
    assert Image.open(tmp_path / "out" / "big.png").size == (305, 225)
    done = subprocess.run(
        [*command, "upscale", tmp_path / "no.png", "--output", tmp_path / "x.png"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("flowmapsr: error:")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_the_command_and_the_function_give_the_same_pixels(image, tmp_path):
    assert run("upscale", image, "--output", tmp_path / "out.png", "--scale", "3", "--dtype", "float32", "--quiet") == 0
    expected = upscale(load_model(), read_picture(image).color, 3.0)
    assert (read_picture(tmp_path / "out.png").color - expected).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("option", "value", "size"),
    [("--scale", "1", (122, 90)), ("--scale", "2.37", (289, 213)), ("--long-edge", "400", (400, 295)),
     ("--size", "301x244", (301, 244))],
)  # fmt: skip
def test_sizes(image, tmp_path, option, value, size):
    assert run("upscale", image, "--output", tmp_path / "out.webp", option, value, "--quiet", "--tile", "0") == 0
    assert Image.open(tmp_path / "out.webp").size == size


def test_settings_reach_the_sampler(image, tmp_path, small_model):
    model = tmp_path / "small.safetensors"
    save_checkpoint(small_model, model)
    results = {}
    for name, more in {
        "balanced": (), "faithful": ("--look", "faithful"), "steps": ("--steps", "4"), "guidance": ("--guidance", "3"),
        "color": ("--color", "wavelet"), "strength": ("--color-strength", "0.3"),
    }.items():  # fmt: skip
        target = tmp_path / f"{name}.png"
        assert run("upscale", image, "--output", target, "--scale", "2", "--model", model, "--quiet", *more) == 0
        results[name] = pixels(target)
    assert len(set(results.values())) == len(results)
    tiled = tmp_path / "tiled.png"
    options = ("--scale", "2", "--model", model, "--dtype", "float32", "--quiet")
    assert run("upscale", image, "--output", tiled, *options, "--tile", "64") == 0
    assert run("upscale", image, "--output", tmp_path / "whole.png", *options, "--tile", "0") == 0
    difference = read_picture(tiled).color - read_picture(tmp_path / "whole.png").color
    assert difference.abs().max() <= 1 / 255 + 1e-6


def test_a_guidance_that_a_model_has_not_learned_is_said_once(image, tmp_path, small_model, caplog):
    small_model.info["training"] = {"guidance": "hidden", "stages": [{"kind": "guided"}]}
    model = tmp_path / "small.safetensors"
    save_checkpoint(small_model, model)
    options = ("--output", tmp_path / "out", "--scale", "1", "--model", model, "--overwrite", "--quiet")
    shutil.copy(image, tmp_path / "again.png")
    assert run("upscale", image, tmp_path / "again.png", *options) == 0
    assert "guidance" not in caplog.text
    assert run("upscale", image, tmp_path / "again.png", *options, "--guidance", "3") == 0
    assert caplog.text.count("evaluated at 1, not at 3") == 1


def test_looks_have_loras_of_their_own_strength(image, tmp_path, small_model):
    """None in the faithful one, whatever scale is asked for."""
    model, lora = tmp_path / "small.safetensors", tmp_path / "lora.safetensors"
    save_checkpoint(small_model, model)
    save_lora(lora, {"encoder.1.0.conv1": (torch.randn(2, 12, 3, 3) * 0.1, torch.randn(12, 2, 1, 1))}, 2, 2.0)
    results = {}
    for name, more in {
        "faithful": (), "with": ("--lora", lora, "--lora-scale", "3"),
        "vivid": ("--lora", lora, "--lora-scale", "1.5"), "default": ("--lora", lora),
        "balanced": ("--lora", lora, "--lora-scale", "2", "--steps", "4", "--guidance", "3"),
    }.items():  # fmt: skip
        look = {"with": "faithful", "default": "vivid"}.get(name, name)
        target = tmp_path / f"{name}.png"
        options = ("--scale", "2", "--model", model, "--look", look, "--quiet", *more)
        assert run("upscale", image, "--output", target, *options) == 0
        results[name] = pixels(target)
    assert results["with"] == results["faithful"]
    assert results["vivid"] == results["default"] == results["balanced"] != results["faithful"]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16"])
def test_kinds_of_image_survive(tmp_path, photo, mode):
    rgb = Image.fromarray((photo[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    if mode == "I;16":
        source = Image.fromarray((photo[0, 0].numpy() * 65535).astype(np.uint16))
    elif mode.endswith("A"):
        source = rgb.convert(mode)
        source.putalpha(Image.linear_gradient("L").resize(rgb.size))
    else:
        source = rgb.convert(mode)
    source.save(tmp_path / "in.png")
    assert run("upscale", tmp_path / "in.png", "--output", tmp_path / "out.png", "--scale", "2", "--quiet") == 0
    before, after = read_picture(tmp_path / "in.png"), read_picture(tmp_path / "out.png")
    assert (after.gray, after.bits, after.alpha is None) == (before.gray, before.bits, before.alpha is None)
    assert after.color.shape[-2:] == (180, 244)
    if after.alpha is not None:
        shrunk = torch.nn.functional.avg_pool2d(after.alpha, 2)
        assert (shrunk - before.alpha).abs().max() < 0.03


def test_a_folder_with_one_bad_file(tmp_path, image, capsys):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.bmp"):
        Image.open(image).resize((20, 16)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes.txt").write_text("not an image, not touched")
    assert run("upscale", folder, "--output", tmp_path / "out", "--scale", "2") == 2
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {"a.png", "more/b.bmp.png"}
    lines = capsys.readouterr().err.strip().splitlines()
    assert "broken.jpg" in lines[-2]
    assert lines[-1] == "2 of 3 images upscaled"


def test_an_error_that_nobody_foresaw_ends_one_image_only(tmp_path, image, capsys, caplog, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "odd.png", "z.png"):
        Image.open(image).resize((20, 16)).save(folder / name)

    def read(path):
        if path.name == "odd.png":
            raise struct.error("unpack requires a buffer\nof 4 bytes")
        return read_picture(path)

    monkeypatch.setattr(upscale_module, "read_picture", read)
    assert run("upscale", folder, "--output", tmp_path / "out", "--scale", "2", "--quiet") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "odd.png" in line
    assert "struct" not in caplog.text
    assert "error: unpack requires a buffer of 4 bytes" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "z.png"]
    assert run("upscale", folder, "--output", tmp_path / "out", "--scale", "2", "--quiet", "--verbose") == 2
    assert "Traceback" in caplog.text


SHORT_OF_MEMORY = """
import sys, resource
from flowmapsr.flowmapsr_core.cli import command, upscale
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, resource.RLIM_INFINITY))
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on a process's memory")
def test_a_picture_too_large_for_the_memory_leaves_the_others_alone(tmp_path, small_model):
    folder, model = tmp_path / "photos", tmp_path / "model.safetensors"
    folder.mkdir()
    Image.new("RGB", (2400, 1600), "teal").save(folder / "large.png")
    Image.new("RGB", (24, 16), "teal").save(folder / "small.png")
    save_checkpoint(small_model, model)
    command = ["upscale", folder, "--output", tmp_path / "out", "--scale", "8", "--model", model, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, *command, "--device", "cpu"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    warning, line = done.stderr.strip().splitlines()
    assert "out of memory; once more with less" in warning
    assert line.startswith(f"flowmapsr: error: {folder / 'large.png'}: not enough memory")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.png"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("unable to mmap: Cannot allocate memory (12)")])
def test_a_model_too_large_for_the_memory_is_one_line(error, image, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(upscale_module, "load_model", fail)
    assert run("upscale", image, "--output", tmp_path / "out.png", "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowmapsr: error: not enough memory for the model")


def test_naming_an_error_imports_nothing(image, tmp_path, capsys, monkeypatch):
    """torch._dynamo takes seconds and memory, of which there may be none."""

    class TorchDynamoException(RuntimeError):
        pass

    def fail(*_, **__):
        raise TorchDynamoException("no compiler\nin this place")

    monkeypatch.setattr(upscale_module, "upscale", fail)
    command = ("upscale", image, "--output", tmp_path / "out.png", "--quiet")
    monkeypatch.delitem(sys.modules, "torch._dynamo.exc", raising=False)
    assert run(*command) == 2
    assert "torch._dynamo.exc" not in sys.modules
    assert "too odd (TorchDynamoException: no compiler in this place)" in capsys.readouterr().err
    compiler = SimpleNamespace(TorchDynamoException=TorchDynamoException)
    monkeypatch.setitem(sys.modules, "torch._dynamo.exc", compiler)
    assert run(*command) == 2
    assert "--compile does not work here (no compiler); leave it out" in capsys.readouterr().err


def test_what_a_format_cannot_hold_is_said_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(upscale_module, "upscale")
    Image.new("RGB", (4100, 4)).save(tmp_path / "wide.png")
    assert run("upscale", tmp_path / "wide.png", "--output", tmp_path / "out.webp", "--scale", "4") == 2
    assert "WEBP holds at most 16383 pixels a side; write PNG or TIFF" in capsys.readouterr().err


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, image, capsys):
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (1, 1)).save(tiny)
    out = tmp_path / "result" / "out.png"
    cases = [
        ([tmp_path / "missing.png"], "no such file"), ([tiny], "1x1"), ([image, "--scale", "9"], "from 1 to 8"),
        ([image, "--scale", "0.9"], "from 1 to 8"), ([image, "--size", "5x5"], "choose a size"),
        ([image, "--long-edge", "3"], "choose a size"), ([image, "--long-edge", "0"], "choose a size"),
        ([image, "--steps", "3"], "power of two"),
        ([image, "--model", tmp_path / "no.safetensors"], "no such file"), ([image, "--device", "warp"], "device"),
        ([image, "--lora", "no.safetensors"], "no such file; give a LoRA"),
        ([image, "--every", "2", "--quality", "9"], "--every, --quality: for clips, and there is none"),
        ([image, "--text-encoder", tmp_path], "--text-encoder is for a --prompt"),
        ([image, "--lora", image], "not a safetensors file"), ([image, "--lora-scale", "1"], "more LoRA scales"),
        ([image, "--tile", "-4"], "tile"),
        ([image, "--color-strength", "2"], "from 0"),
    ]  # fmt: skip
    for arguments, message in cases:
        assert run("upscale", *arguments, "--output", out, "--quiet") == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]
        assert not out.exists()
    for target, message in (
        (tmp_path / "out.bmp", ".bmp"),
        (image, "an input itself"),
        (image / "out.png", "is a file"),
    ):
        assert run("upscale", image, "--output", target, "--quiet") == 2
        assert message in capsys.readouterr().err
    assert run("upscale", image, tiny, "--output", tmp_path / "both.png") == 2
    assert "give a folder" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["upscale"], ["upscale", "a.png", "--output", "b.png", "--size", "12"], ["x"]])
def test_usage_errors_are_one_line_too(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", ["--help", "upscale --help", "evaluate --help", "degrade --help", "convert --help", "upscale", "x"]
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments):
    code = (
        "import sys; from flowmapsr.flowmapsr_core.cli.command import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*{'torch', 'diffusers', 'numpy', 'PIL'} & sys.modules.keys(), 'were imported')"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "--help" in arguments else 2), done.stderr
    assert done.stdout.splitlines()[-1].strip() == "were imported"


def test_the_parser_knows_the_names_that_there_are():
    assert tuple(color.METHODS) == names.COLORS
    assert tuple(degradation.PRESETS) == names.DEGRADATIONS
    assert tuple(host.DTYPES) == names.DTYPES
    for name in flowmapsr_core.__all__:
        assert getattr(flowmapsr_core, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'upscaler'"):
        flowmapsr_core.upscaler  # noqa: B018


def test_what_is_logged_does_not_stand_behind_a_progress_bar(tmp_path, image, capsys, monkeypatch):
    console = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [console])
    assert run("upscale", image, "--output", tmp_path / "out.png", "--scale", "1", "--verbose") == 0
    assert re.search(r"[\r\n]latent of", capsys.readouterr().err)


def test_degrade(image, tmp_path, capsys):
    for preset in ("flowmapsr", "bicubic", "real-esrgan", "camera"):
        target = tmp_path / f"{preset}.png"
        assert run("degrade", image, "--output", target, "--scale", "4", "--preset", preset, "--seed", "3") == 0
        assert Image.open(target).size == (30, 22)
        again = tmp_path / "again.png"
        assert run("degrade", image, "--output", again, "--scale", "4", "--preset", preset, "--seed", "3") == 0
        assert again.read_bytes() == target.read_bytes()
    assert run("degrade", image, "--output", tmp_path / "out.png", "--scale", "0.5") == 2
    assert "from 1 to 64" in capsys.readouterr().err
    for seed in (-1, 2**64):
        assert run("degrade", image, "--output", tmp_path / "out.png", "--scale", "4", "--seed", seed) == 2
        assert f"from 0 to {2**64 - 1}" in capsys.readouterr().err
    assert run("degrade", image, "--output", tmp_path / "out.png", "--scale", "4", "--seed", 2**64 - 1) == 0


def test_degrade_takes_folders(tmp_path, image, capsys):
    """Every picture of a folder as if it were alone; what cannot be read is a line."""
    folder, out = tmp_path / "photos", tmp_path / "small"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "more/b.bmp", "more/c.png")):
        Image.open(image).crop((number, 0, number + 80, 60)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes.txt").write_text("not an image, not touched")
    command = ("degrade", folder, "--output", out, "--scale", "2.5", "--preset", "real-esrgan", "--seed", "5")
    assert run(*command) == 2
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {"a.png", "more/b.bmp.png", "more/c.png"}
    said = capsys.readouterr().err
    assert "4/4 c.png" in said  # the progress bar
    lines = said.strip().splitlines()
    assert "broken.jpg" in lines[-2]
    assert lines[-1] == "3 of 4 images degraded"
    for source, target in (("a.png", "a.png"), ("more/b.bmp", "more/b.bmp.png"), ("more/c.png", "more/c.png")):
        assert run("degrade", folder / source, "--output", tmp_path / "alone.png", *command[4:]) == 0
        assert (tmp_path / "alone.png").read_bytes() == (out / target).read_bytes()
        stages, generator = degradation.preset("real-esrgan"), torch.Generator().manual_seed(5)
        expected = degradation.degrade(read_picture(folder / source).color, 2.5, stages, generator)
        assert (read_picture(out / target).color - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_degrade_goes_on_where_it_stopped(tmp_path, image, capsys):
    folder, out = tmp_path / "photos", tmp_path / "small"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.open(image).save(folder / name)
    command = ("degrade", folder / "a.png", folder / "b.png", "--output", out, "--scale", "4")
    assert run(*command, "--quiet") == 0
    assert not capsys.readouterr().err
    (out / "a.png").unlink()
    (out / "b.png").write_bytes(b"is there")
    assert run(*command) == 0
    assert "1 of 2 images degraded, 1 were there already" in capsys.readouterr().err
    assert (out / "b.png").read_bytes() == b"is there"
    assert run(*command, "--overwrite", "--quiet") == 0
    assert (out / "b.png").read_bytes() == (out / "a.png").read_bytes()
    assert run("degrade", folder, "--output", tmp_path / "out.png", "--scale", "4") == 2
    assert "one file for several images; give a folder" in capsys.readouterr().err
    assert run("degrade", image, "--output", image, "--scale", "4") == 2
    assert "is an input itself" in capsys.readouterr().err


def test_merge(image, tmp_path, small_model, capsys):
    base, merged = tmp_path / "base.safetensors", tmp_path / "more" / "merged.safetensors"
    small_model.info = {"title": "Base", "license": "cc-by-nc-4.0"}
    save_checkpoint(small_model, base)
    loras = []
    for number in range(2):
        path = tmp_path / f"{number}.safetensors"
        layers = {"encoder.1.0.conv1": (torch.randn(2, 12, 3, 3) * 0.1, torch.randn(12, 2, 1, 1))}
        save_lora(path, layers, 2, 2.0, load_model(base), {"license": "MIT"})
        loras += ["--lora", path, "--lora-scale", 0.5 - number]
    assert run("merge", "--model", base, *loras, "--output", merged) == 0
    results = {}
    for name, options in {
        "base": ("--model", base),
        "beside": ("--model", base, *loras),
        "merged": ("--model", merged),
    }.items():
        target = tmp_path / f"{name}.png"
        assert run("upscale", image, "--output", target, "--scale", "2", "--quiet", *options) == 0
        results[name] = read_picture(target).color
    assert (results["beside"] - results["merged"]).abs().max() <= 1 / 255 + 1e-6
    assert (results["beside"] - results["base"]).abs().max() > 2 / 255
    hashes = [load_model(path).info["hash_sha256"] for path in (base, merged)]
    assert hashes[0] != hashes[1]
    capsys.readouterr()
    assert run("inspect", merged) == 0
    assert {
        "modelspec.merged_from: base.safetensors, 0.safetensors x0.5, 1.safetensors x-0.5",
        "modelspec.license: cc-by-nc-4.0 AND MIT",
        f"modelspec.derived_from: Base, cc-by-nc-4.0, {hashes[0]}",
    } <= {*capsys.readouterr().out.splitlines()}
    assert run("inspect", loras[1]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"kind: lora", "rank: 2", "alpha: 2", f"flowmapsr.base_hash: {hashes[0]}"} <= {*lines}


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--output", "m.ckpt"), "end the name"), (("--output", "m.safetensors"), "nothing to merge"),
     (("--output", "m.safetensors", "--lora", "missing.safetensors"), "no such file"),
     (("--output", "m.safetensors", "--lora", "a", "--lora-scale", "1", "--lora-scale", "2"), "more LoRA scales")],
)  # fmt: skip
def test_merge_says_what_is_wrong(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("merge", *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_inspect(capsys, image):
    assert run("inspect", SHIPPED["built-in"], "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["kind"] == "checkpoint"
    assert described["config"]["prompts"]["positive"].startswith("a high-resolution")
    for name in (SHIPPED["built-in"], *SHIPPED):
        assert run("inspect", name) == 0
        assert "kind: checkpoint" in capsys.readouterr().out
    assert run("inspect", image) == 0
    assert "kind: picture" in capsys.readouterr().out


def test_inspect_of_other_people_s_files(tmp_path, small_model, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other, {"config": "a = 1", "training": "{", "title": "Ψηφιδωτό"})
    assert run("inspect", other) == 0
    assert {"kind: other", "config: a = 1", "training: {", "title: Ψηφιδωτό"} <= {*capsys.readouterr().out.splitlines()}
    save_checkpoint(small_model, tmp_path / "good.safetensors")
    metadata, _ = read_metadata(tmp_path / "good.safetensors")
    for config in ("[]", '{"network": []}', '"text"', "null"):
        save_file({"a": torch.zeros(2)}, other, {**metadata, "config": config})
        assert run("inspect", other) == 0
        with pytest.raises(UserError, match="configuration this FlowMapSR cannot build"):
            load_model(other)


def test_titles_that_the_output_cannot_encode(tmp_path):
    """As on Windows, where output to a file or a pipe is cp1252."""
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors", {"title": "Ψ"})
    done = subprocess.run(
        [sys.executable, "-m", "flowmapsr.flowmapsr_core", "inspect", tmp_path / "other.safetensors"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"title: \u03a8" in done.stdout


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_models_beat_bicubic_on_the_shipped_picture(model, tmp_path):
    """A guard against shipping broken weights; the model card has the real figures."""
    from flowmapsr.flowmapsr_core.images.metrics import high_frequency_energy, psnr_y
    from flowmapsr.flowmapsr_core.images.resize import resize

    hr = read_picture(EXAMPLE).color
    lr, faithful, default = (tmp_path / f"{name}.png" for name in ("lr", "faithful", "default"))
    assert run("degrade", EXAMPLE, "--output", lr, "--scale", "4", "--preset", "bicubic") == 0
    size, chosen = f"{hr.shape[-1]}x{hr.shape[-2]}", ("--model", model, "--quiet")
    assert run("upscale", lr, "--output", faithful, "--size", size, "--look", "faithful", *chosen) == 0
    assert run("upscale", lr, "--output", default, "--size", size, *chosen) == 0
    bicubic = resize(read_picture(lr).color, (hr.shape[-2], hr.shape[-1])).clamp(0, 1)
    results = {path: read_picture(path).color for path in (faithful, default)}
    assert psnr_y(results[faithful], hr) > psnr_y(bicubic, hr) + 0.2
    wanted, plain = high_frequency_energy(hr), high_frequency_energy(bicubic)
    assert (high_frequency_energy(results[default]) - wanted).abs() < (plain - wanted).abs()
