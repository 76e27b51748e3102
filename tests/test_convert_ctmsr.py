"""CTMSR's checkpoint: its layout by formula, and a tiny one through the command."""

import json
import math

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core import load_model
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.files.convert import convert, read_source
from flowmapsr.flowmapsr_core.files.convert.ctmsr import read_ctmsr
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.flowmapsr_core.networks import CTMSRNet, CTMSRNetConfig
from PIL import Image

TINY = {"multipliers": (1, 2), "width": 8, "blocks": 1, "attention": 32, "heads": 2, "window": 4}


def layout(width=192, multipliers=(1, 2, 2, 2), blocks=4, attention=192, heads=6, window=8, side=64):
    """Names and shapes in a checkpoint of theirs; the default is the published configuration."""
    shapes = {}

    def layer(name, out, *others):
        shapes[f"model.{name}.weight"], shapes[f"model.{name}.bias"] = (out, *others), (out,)

    def block(name, inner, outer, attends=True, resampled=False):
        layer(f"{name}.norm0", inner)
        layer(f"{name}.conv0", outer, inner, 3, 3)
        layer(f"{name}.affine", outer, 4 * width)
        layer(f"{name}.norm1", outer)
        layer(f"{name}.conv1", outer, outer, 3, 3)
        if resampled:
            shapes[f"model.{name}.conv0.resample_filter"] = shapes[f"model.{name}.skip.resample_filter"] = (1, 1, 2, 2)
        if resampled or inner != outer:
            layer(f"{name}.skip", outer, inner, 1, 1)
        if attends:
            swin, inside = f"{name}.swin_layer", f"{name}.swin_layer.blocks.0"
            layer(f"{swin}.patch_embed.proj", attention, outer, 1, 1)
            layer(f"{swin}.patch_unembed.proj", outer, attention, 1, 1)
            layer(f"{swin}.conv", outer, outer, 3, 3)
            layer(f"{inside}.norm1", attention)
            layer(f"{inside}.norm2", attention)
            shapes[f"model.{inside}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            shapes[f"model.{inside}.attn.relative_position_index"] = (window**2, window**2)
            layer(f"{inside}.attn.qkv", 3 * attention, attention)
            layer(f"{inside}.attn.proj", attention, attention)
            layer(f"{inside}.mlp.fc1", 4 * attention, attention, 1, 1)
            layer(f"{inside}.mlp.fc2", attention, 4 * attention, 1, 1)

    layer("map_layer0", 4 * width, width)
    layer("map_layer1", 4 * width, 4 * width)
    layer("conv_up1", width, width, 3, 3)
    layer("conv_up2", width, width, 3, 3)
    layer("conv_last", 3, width, 3, 3)
    sides = [f"{side >> level}x{side >> level}" for level in range(len(multipliers))]
    widths = [width * multiplier for multiplier in multipliers]
    layer(f"enc.{sides[0]}_conv", width, 51, 3, 3)
    skips = [width]
    for level, (name, outer) in enumerate(zip(sides, widths, strict=True)):
        if level:
            block(f"enc.{name}_down", skips[-1], skips[-1], attends=False, resampled=True)
            skips.append(skips[-1])
        for index in range(blocks):
            block(f"enc.{name}_block{index}", skips[-1], outer)
            skips.append(outer)
    block(f"dec.{sides[-1]}_in0", skips[-1], skips[-1])
    block(f"dec.{sides[-1]}_in1", skips[-1], skips[-1], attends=False)
    inner = skips[-1]
    for name, outer in reversed([*zip(sides, widths, strict=True)]):
        if name != sides[-1]:
            block(f"dec.{name}_up", inner, inner, attends=False, resampled=True)
        for index in range(blocks + 1):
            block(f"dec.{name}_block{index}", inner + skips.pop(), outer, attends=index == blocks)
            inner = outer
    layer(f"dec.{sides[0]}_aux_norm", width)
    layer(f"dec.{sides[0]}_aux_conv", width, width, 3, 3)
    return shapes


def tiny_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in layout(**TINY).items()}


@pytest.fixture
def save(tmp_path):
    def saved(**kinds):
        torch.save(kinds, tmp_path / "CTMSR.pth")
        return tmp_path / "CTMSR.pth"

    return saved


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


# -------------------------------------------------------------------------------------------------------- the layout


def test_the_published_layout_is_the_networks(tmp_path):
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in layout().items()}
        network = CTMSRNet()
    source = read_ctmsr(tmp_path, {"params_ema": weights, "params": weights})
    assert source.config == CTMSRNetConfig()
    assert {name: tensor.shape for name, tensor in source.tensors.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }
    constants = [name for name in weights if name.endswith(("resample_filter", "relative_position_index"))]
    assert source.dropped == ("params", *constants)
    taken = sum(math.prod(shape) for name, shape in layout().items() if name not in constants)
    assert taken == pytest.approx(171.5e6, rel=1e-3)
    assert taken == sum(tensor.numel() for tensor in source.tensors.values())


PLACES = {
    "time.2.bias": "map_layer1.bias",
    "stem.weight": "enc.64x64_conv.weight",
    "encoder.0.block0.norm1.weight": "enc.64x64_block0.norm1.weight",
    "encoder.1.down.skip.bias": "enc.32x32_down.skip.bias",
    "encoder.1.block0.attention.enter.bias": "enc.32x32_block0.swin_layer.patch_embed.proj.bias",
    "encoder.1.block0.attention.conv.weight": "enc.32x32_block0.swin_layer.conv.weight",
    "decoder.1.in0.attention.norm2.bias": "dec.32x32_in0.swin_layer.blocks.0.norm2.bias",
    "decoder.1.in0.attention.table": "dec.32x32_in0.swin_layer.blocks.0.attn.relative_position_bias_table",
    "decoder.1.in1.affine.weight": "dec.32x32_in1.affine.weight",
    "decoder.0.up.conv1.weight": "dec.64x64_up.conv1.weight",
    "decoder.0.block1.attention.out.weight": "dec.64x64_block1.swin_layer.blocks.0.attn.proj.weight",
    "decoder.0.block1.attention.qkv.weight": "dec.64x64_block1.swin_layer.blocks.0.attn.qkv.weight",
    "decoder.0.block1.attention.grow.weight": "dec.64x64_block1.swin_layer.blocks.0.mlp.fc1.weight",
    "decoder.0.block1.attention.leave.bias": "dec.64x64_block1.swin_layer.patch_unembed.proj.bias",
    "head_norm.weight": "dec.64x64_aux_norm.weight",
    "head.weight": "dec.64x64_aux_conv.weight",
    "up2.bias": "conv_up2.bias",
    "last.weight": "conv_last.weight",
}


def test_every_tensor_gets_to_its_place(save):
    weights = tiny_weights()
    model = convert(read_source(save(params_ema=weights)))
    own = model.network.state_dict()
    for ours, theirs in PLACES.items():
        assert torch.equal(own[ours], weights[f"model.{theirs}"]), ours
    assert len({tensor.double().sum().item() for tensor in own.values()}) == len(own)  # none is there twice
    assert not any(prompt.any() for prompt in model.flow.prompts.values())  # prompts are added: they change nothing


@pytest.mark.parametrize("kinds", [("params_ema",), ("params",), ("params", "params_ema")])
def test_the_average_of_the_weights_is_preferred(save, kinds):
    path = save(**{kind: tiny_weights(seed) for seed, kind in enumerate(kinds)})
    expected = tiny_weights(len(kinds) - 1)["model.conv_last.bias"]
    assert torch.equal(convert(read_source(path)).network.last.bias, expected)


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def converted(save, tmp_path):
    output = tmp_path / "ctmsr.safetensors"
    assert run("convert", save(params_ema=tiny_weights()), "--output", output, "--license", "mit") == 0
    return output


def test_the_file_says_what_it_is(converted, capsys):
    described = describe(converted)
    assert described["config"]["method"] == {"type": "ctmsr", "noise": 1.0}
    assert described["config"]["network"]["type"] == "CTMSRNet"
    assert described["config"]["codec"] == {"type": "PixelCodec", "factor": 4}
    assert described["modelspec.license"] == "mit"
    assert described["modelspec.converted_from"] == "CTMSR.pth, CTMSR's network"
    assert described["dtypes"] == ["F32"]
    assert load_model(converted).method == CTMSR(noise=1.0)
    capsys.readouterr()
    assert run("inspect", converted, "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"]["method"]["type"] == "ctmsr"


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(converted, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (18, 21, 3), dtype=np.uint8)).save(photo)
    pictures = []
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        output = tmp_path / f"{name}.png"
        assert run("upscale", photo, "--output", output, "--model", converted, "--seed", seed, "--device", "cpu") == 0
        pictures.append(np.asarray(Image.open(output)))
    first, again, other = pictures
    assert first.shape == (72, 84, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_licence_it_says_what_is_known_of_it(save, tmp_path, caplog):
    path = save(params_ema=tiny_weights())
    assert run("convert", path, "--output", tmp_path / "made.safetensors") == 0
    assert f"give that of {path} with --license" in caplog.text
    assert "CTMSR" in caplog.text.replace(str(path), "")


class Code:
    def __reduce__(self):
        return print, ("never printed",)


def refused(path, capsys, *more):
    """The one line in which the command refuses a file; nothing is written."""
    before = sorted(path.parent.iterdir())
    assert run("convert", path, "--output", path.parent / "made.safetensors", *more) == 2
    written = capsys.readouterr()
    assert sorted(path.parent.iterdir()) == before
    assert not written.out
    assert len(written.err.strip().splitlines()) == 1
    return written.err


def test_code_in_the_file_is_never_run(save, capsys):
    message = refused(save(params_ema=tiny_weights(), hook=Code()), capsys)
    assert "holds more than weights" in message
    assert "never printed" not in message


def test_what_is_missing_or_too_much_is_named_as_the_file_has_it(save, capsys):
    name = "model.dec.32x32_in0.swin_layer.blocks.0.attn.proj.weight"
    weights = tiny_weights()
    del weights[name]
    assert f"{name} is missing" in refused(save(params_ema=weights), capsys)
    weights = tiny_weights() | {"model.enc.64x64_block0.swin_layer.blocks.1.norm1.weight": torch.zeros(32)}
    assert "blocks.1.norm1.weight is unknown" in refused(save(params_ema=weights), capsys)
    weights = tiny_weights() | {"model.conv_last.bias": torch.zeros(4)}
    assert "model.conv_last.bias is [4], not [3]" in refused(save(params_ema=weights), capsys)
    levels = {name: tensor for name, tensor in tiny_weights().items() if ".enc." not in name}
    assert "another shape than CTMSR's" in refused(save(params_ema=levels), capsys)


def test_it_takes_no_vae_and_reads_no_text(save, tmp_path, capsys):
    path = save(params=tiny_weights())
    for option in ("--vae", "--bake-prompts"):
        assert "leave out both" in refused(path, capsys, option, tmp_path)
    with pytest.raises(UserError, match="leave out both"):
        convert(read_source(path), vae=tmp_path)
