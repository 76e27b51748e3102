"""A picture made again by the command that ``flowmapsr inspect`` prints."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from flowmapsr.flowmapsr_core import save_checkpoint
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.lora import save_lora
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.record import with_record
from flowmapsr.flowmapsr_core.upscaling.remake import remake_command
from PIL import Image

RECORD = {
    "model": "Mine", "hash": "0x1", "model_file": "mine.safetensors", "steps": 2, "guidance": 1.5, "realism": 0.7,
    "seed": 5, "color": "none", "color_strength": 1.0, "dtype": "float32", "source": "a b.jpg", "to": "20x10",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch, photo):
    """Where the commands run: a folder with a photograph."""
    monkeypatch.chdir(tmp_path)
    write_picture(Picture(photo[..., :40, :60]), tmp_path / "my photo.png")
    return tmp_path


def run(*words):
    return cli.main([str(word) for word in words])


def inspected(path, capsys):
    capsys.readouterr()
    assert run("inspect", path, "--json") == 0
    return json.loads(capsys.readouterr().out)


def difference_when_made_again(path, capsys):
    program, *words = shlex.split(inspected(path, capsys)["command"])
    assert program == "flowmapsr"
    assert run(*words, "--quiet") == 0
    again = path.with_stem(f"{path.stem}-again")
    return (read_picture(again).color - read_picture(path).color).abs().max().item()


@pytest.mark.parametrize("options", [("--scale", 1.7, "--look", "vivid"), ("--long-edge", 90, "--realism", 0.2)])
def test_the_built_in_model(folder, capsys, options):
    assert run("upscale", "my photo.png", "--output", "up.png", *options, "--quiet") == 0
    assert inspected(folder / "up.png", capsys)["source"] == "my photo.png"
    assert difference_when_made_again(folder / "up.png", capsys) == 0


def test_a_model_with_loras_and_a_mask(folder, small_model, capsys):
    save_checkpoint(small_model, folder / "mine.safetensors")
    weights = {name: weight for name, weight in small_model.network.named_parameters() if "conv2.weight" in name}
    for file, scale in (("a.safetensors", 0.3), ("b.safetensors", 0.2)):
        layers = {
            name.removesuffix(".weight"): (
                torch.randn(2, *weight.shape[1:]) * scale,
                torch.randn(len(weight), 2, 1, 1) * scale,
            )
            for name, weight in weights.items()
        }
        save_lora(folder / file, layers, 2, 2.0, small_model)
    Image.linear_gradient("L").resize((60, 40)).save("mask.png")
    loras = ("--lora", "a.safetensors", "--lora", "b.safetensors", "--lora-scale", 0.5)
    options = (*loras, "--look", "vivid", "--realism-mask", "mask.png", "--color", "wavelet", "--color-strength", 0.5)
    made = ("upscale", "my photo.png", "--output", "up.png", "--scale", 1.5, "--dtype", "float32", "--quiet")
    assert run(*made, "--model", "mine.safetensors", *options) == 0
    described = inspected(folder / "up.png", capsys)
    assert described["loras"] == pytest.approx({"a.safetensors": 2 / 3, "b.safetensors": 2.0})
    assert difference_when_made_again(folder / "up.png", capsys) == 0
    assert run(*made, "--model", "mine.safetensors", "--overwrite") == 0  # the options had all been needed
    assert (read_picture(folder / "up.png").color - read_picture(folder / "up-again.png").color).abs().max() > 0.02


def test_what_is_inspected_is_said_in_lines(folder, capsys):
    picture = read_picture(folder / "my photo.png")
    write_picture(replace(picture, metadata=with_record({}, RECORD)), folder / "up.png")
    assert run("inspect", "up.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["file: up.png", "kind: picture", "size: 60x40", "model: Mine"]
    assert lines[-1] == (
        "command: flowmapsr upscale 'a b.jpg' --output up-again.png --size 20x10 --model mine.safetensors --steps 2 "
        "--guidance 1.5 --realism 0.7 --seed 5 --color none --color-strength 1.0 --dtype float32"
    )
    assert run("inspect", "my photo.png") == 0
    assert "no_command: the picture does not say that FlowMapSR made it" in capsys.readouterr().out
    (folder / "text.png").write_text("hello")
    assert run("inspect", "text.png") == 2
    assert "text.png is not an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": None}, "does not say all of its settings"),
        ({"realism_mask": True}, "its realism mask was in no file; a PNG or WebP dropped on ComfyUI"),
        ({"dtype": "fp8_e4m3fn"}, "does not keep weights in fp8_e4m3fn"),
        ({"through": ["ImageBlur", "ImageSharpen"]}, "does not know: ImageBlur, ImageSharpen"),
    ],
)
def test_why_there_is_no_command(tmp_path, changes, reason):
    record = {key: value for key, value in (RECORD | changes).items() if value is not None}
    with pytest.raises(UserError, match=reason):
        remake_command(record, tmp_path / "up.png")


def test_a_prompt_needs_its_text_encoder(tmp_path):
    words = remake_command(RECORD | {"prompt": "a pier"}, tmp_path / "up.png")
    assert words[-4:] == ["--prompt", "a pier", "--text-encoder", "FOLDER"]
