"""The pattern of pixels that a model paints everywhere, and taking it out."""

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import CompactNet, CompactNetConfig
from flowmapsr.trainer.tools.pattern import PLACES, main, patterns, take_out
from PIL import Image

SIZE = 0.1  # of the pattern, in latents


@pytest.fixture
def spotted():
    """A CompactNet that shifts its channels by a pattern, and by another one with every change of the times."""
    torch.manual_seed(0)
    network = CompactNet(CompactNetConfig(unshuffle=4, width=8, layers=1, condition_dim=16, prompt_dim=8))
    linear = network.base_modulation.linear
    with torch.no_grad():
        linear.weight[48:] = SIZE * torch.randn(48, 16)
        linear.bias[48:] = SIZE * torch.randn(48)
    return Model(FlowMap(network).requires_grad_(False).eval(), PixelCodec(4))


@pytest.fixture
def lrs(photo):
    return [resize(photo, (96, 128)).clamp(0.3, 0.7), resize(photo.flip(3), (64, 64)).clamp(0.3, 0.7)]


def test_a_shift_of_channels_is_the_pattern_less_its_colours(spotted, lrs):
    found = patterns(spotted, lrs)
    t = torch.ones(len(PLACES))
    prompts = spotted.flow.prompts["positive"].expand(len(PLACES), -1)
    network = spotted.network
    shift = network.base_modulation.linear(network.embed(t, t - torch.tensor(PLACES), prompts, t))[:, 48:]
    shift = (shift.unflatten(1, (3, 16)) - shift.unflatten(1, (3, 16)).mean(dim=2, keepdim=True)).flatten(1)
    network.base_modulation.linear.bias.zero_()
    network.base_modulation.linear.weight.zero_()
    own = patterns(spotted, lrs)  # of the photograph
    assert (found - own - shift).abs().max() < 1e-5
    assert shift.abs().max() > SIZE


def test_it_is_taken_out_at_every_place_and_colours_stay(spotted, lrs):
    found = patterns(spotted, lrs)
    before = spotted.network.base_modulation.linear.weight.clone()
    take_out(spotted, found)
    assert patterns(spotted, lrs).abs().max() < 1e-5 < 0.1 * found.abs().max()
    after = spotted.network.base_modulation.linear.weight
    assert torch.equal(after[:48], before[:48])
    assert (after - before)[48:].unflatten(0, (3, 16)).sum(dim=1).abs().max() < 1e-5


def test_the_command_writes_a_model_without_it(spotted, lrs, photo, tmp_path, capsys):
    save_checkpoint(spotted, tmp_path / "a.safetensors")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.fromarray((photo[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(photographs / "a.png")
    made = tmp_path / "b.safetensors"
    assert main([str(tmp_path / "a.safetensors"), str(photographs), "--output", str(made)]) == 0
    table = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0] for line in table] == [f"| {place:g}" for place in PLACES]
    assert all(float(line.split(" | ")[1]) > 1 and line.endswith(" 0.000 |") for line in table)
    of_photograph = patterns(load_model(made), lrs).abs().max()
    assert of_photograph < 0.1 * patterns(spotted, lrs).abs().max()


def test_models_without_a_base_picture_and_empty_folders_are_refused(small_model, spotted, photo, tmp_path, capsys):
    for model, name in ((small_model, "local"), (spotted, "compact")):
        save_checkpoint(model, tmp_path / f"{name}.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    made = tmp_path / "made.safetensors"
    assert main([str(tmp_path / "compact.safetensors"), str(empty), "--output", str(made)]) == 2
    assert f"error: {empty} holds no images (" in capsys.readouterr().err
    Image.fromarray((photo[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(empty / "a.png")
    assert main([str(tmp_path / "local.safetensors"), str(empty), "--output", str(made)]) == 2
    assert "error: a LocalNet has no base picture" in capsys.readouterr().err
    assert not made.exists()
