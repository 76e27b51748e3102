"""Weights spread over processes: FSDP and DeepSpeed on pixels and on latents, against one process that holds all."""

import importlib.util

import pytest
import torch
from flowmapsr.flowmapsr_core import save_checkpoint
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from safetensors.torch import load_file
from torch.distributed import fsdp

pytest.importorskip("accelerate", reason="training needs accelerate")

from trainer_process import FSDP, ZERO_2, failure, train, train_on_two

SETTINGS = ("optimizer={ema=0, warmup=1, clip=0.01}", "output.every=1")
WAYS = [
    pytest.param(
        FSDP, id="fsdp", marks=pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="torch has no FSDP 2")
    ),
    pytest.param(
        ZERO_2, id="zero-2", marks=pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="no deepspeed")
    ),
]


@pytest.fixture
def latent_recipe(recipe_file, tmp_path):
    """The recipe without a model of its own: it starts from a UNet on the latents of a VAE."""
    torch.manual_seed(0)
    vae = VAECodec(VAECodecConfig(block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=16))
    start = tmp_path / "start.safetensors"
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), vae), start)
    text = recipe_file.read_text()
    text = text[: text.index("[model.network]")] + text[text.index("[[data.budgets]]") :]
    recipe_file.write_text(f'start_from = "{start.as_posix()}"\n{text}')
    return recipe_file


def runs(recipe, photos, folder, environment, steps, stopped=()):
    """Weights after the first stage and after the second, and after the second where two processes share the work.

    The two begin again after every entry of ``stopped``: the step before which the second, alone, gets SIGTERM.
    """
    stages = f'stages=[{{kind="flow-matching",steps=1}},{{kind="guided",steps={steps}}}]'
    settings = (f"data.photos={photos}", stages, *SETTINGS)
    one, two = folder / "one", folder / "two"
    done = train(recipe, *settings, f"output.folder={one}")
    assert done.status == 0, done.err
    for sigterm in (*stopped, None):
        statuses, said = train_on_two(
            recipe, *settings, f"output.folder={two}", log=folder / "log", sigterm=sigterm, environment=environment
        )
        assert (statuses, "processes: 2" in said) == ([143 if sigterm else 0] * 2, True), said
    assert not stopped or f"guided: step {stopped[-1]} of {steps}" in said
    files = (one / "stage-1-flow-matching.safetensors", one / "model.safetensors", two / "model.safetensors")
    return [load_file(file) for file in files]


def differ(one, other, tolerance=0.0):
    """Names of the weights that differ by more."""
    assert one.keys() == other.keys()
    return {name for name, weight in one.items() if not torch.allclose(weight, other[name], 0, tolerance)}


@pytest.mark.slow
@pytest.mark.parametrize("environment", WAYS)
def test_a_network_on_pixels(recipe_file, photos, tmp_path, environment):
    first, expected, found = runs(recipe_file, photos, tmp_path, environment, steps=3, stopped=(2,))
    assert differ(first, expected)
    assert not differ(found, expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("environment", WAYS)
def test_a_network_on_latents(latent_recipe, photos, tmp_path, environment):
    first, expected, found = runs(latent_recipe, photos, tmp_path, environment, steps=1)
    assert {name.partition(".")[0] for name in differ(first, expected)} == {"network", "prompts"}
    assert not differ(found, expected, 2e-5)


def test_what_sharded_training_cannot_do_is_said(recipe_file, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("flowmapsr.trainer.run.accelerator.is_sharded", lambda accelerator: True)
    assert "set optimizer.ema to 0" in failure(recipe_file, f"data.photos={photos}", f"output.folder={tmp_path}")
