"""Consistency training and trajectory matching: what is drawn, what is trained, and a run that is killed."""

import signal
import time
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.method.flow import flow_map
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.trainer.losses.consistency import charbonnier, trajectory_gap
from flowmapsr.trainer.losses.windows import windows
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.recipe.recipe import Stage
from flowmapsr.trainer.run.batch import bind, draw, generator_of, make_batch
from flowmapsr.trainer.run.consistency import ConsistencyLearner, TrajectoryLearner
from flowmapsr.trainer.run.estimate import estimate_bytes
from flowmapsr.trainer.run.start import build_model, shapes_of_model
from safetensors.torch import load_file
from trainer_process import failure, start, train

METHOD = 'model.method={type="ctmsr",noise=0.2}'
LPIPS = 'loss={perceptual=0.5,backbone="squeeze",pretrained=false}'
STAGES = 'stages=[{kind="consistency",steps=2},{kind="trajectory-matching",steps=5}]'
SETTINGS = (METHOD, LPIPS, STAGES, "consistency.refresh=2", "optimizer.warmup=1")


@pytest.fixture
def recipe(recipe_file):
    return read_recipe(recipe_file, list(SETTINGS))


def batch_of(recipe, stage, model, seed=0):
    hr = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    draws = draw(recipe, stage, 8, generator_of(seed))
    return make_batch(hr, draws, recipe, model, [generator_of(seed, group) for group in range(4)])


def learner_of(recipe, kind):
    """A learner whose output is not zero any more, and its model."""
    torch.manual_seed(0)
    model, _ = build_model(recipe)
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    index = ["consistency", "trajectory-matching"].index(kind)
    return (ConsistencyLearner, TrajectoryLearner)[index](
        recipe, recipe.stages[index], model, Accelerator(cpu=True)
    ), model


def test_the_grid_coarsens_over_the_stage(recipe_file):
    recipe = read_recipe(recipe_file, ["times.grids=[8,4,3]"])
    stage = Stage("consistency", 9)
    for done, intervals in ((0, 8), (2, 8), (3, 4), (5, 4), (6, 3), (8, 3)):
        draws = draw(recipe, stage, 2000, generator_of(1), done)
        assert set(draws.t.tolist()) == set((torch.arange(1, intervals + 1) / intervals).tolist())
        assert (draws.s == 0).all()
        assert draws.jump.all()
        assert torch.equal(draws.step, torch.full((2000,), 1 / intervals))
        assert (draws.t - draws.step).min() == 0
    matching = draw(recipe, Stage("trajectory-matching", 9), 8, generator_of(1), 0)
    assert torch.equal(matching.step, torch.full((8,), 1 / 3))


@torch.no_grad()
def test_the_error_is_that_of_the_picture(recipe):
    """Absolute error and LPIPS, half of each, from where the jump ends to where the pair's path leads a step on."""
    learner, model = learner_of(recipe, "consistency")
    batch = batch_of(recipe, learner.stage, model)
    draws, u = batch.draws, bind(model.flow, batch.seen, batch.draws.negative)
    r = (draws.t - draws.step).clamp(min=0)
    x_r = torch.lerp(batch.x0, batch.x1, r.reshape(-1, 1, 1, 1))
    ends = flow_map(u, batch.x_t, draws.t, draws.s)[:, :12]
    target = flow_map(u, x_r, r, draws.s)[:, :12]
    _, figures = learner.loss(batch, 0)
    assert torch.allclose(figures["charbonnier"], 0.5 * charbonnier(ends - target).mean(), atol=1e-6)
    decoded = (2 * model.codec.decode(x) - 1 for x in (ends, target))
    pictures = (windows(x, draws.place, x.shape[-1] - model.codec.factor) for x in decoded)
    lpips = learner.perceptual.distances["perceptual"]
    assert torch.allclose(figures["perceptual"], 0.5 * lpips(*pictures).mean(), atol=1e-6)
    first = r == 0
    assert torch.allclose(target[first], batch.x0[first][:, :12], atol=1e-6)
    assert first.any()
    assert not first.all()


def test_trajectory_matching_moves_the_prediction_by_the_gap(recipe):
    """Of noise that the prediction was not made of, at the first time of the grid; the copy gets no gradient."""
    learner, model = learner_of(recipe, "trajectory-matching")
    batch = batch_of(recipe, learner.stage, model)
    loss, figures = learner.loss(batch, 0)
    assert list(figures) == ["charbonnier", "perceptual", "perceptual of trajectories"]
    assert torch.allclose(loss, sum(figures.values()))
    with torch.no_grad():
        predicted = flow_map(
            bind(model.flow, batch.seen, batch.draws.negative), batch.x_t, batch.draws.t, batch.draws.s
        )
        gap = learner.gap(batch, predicted)
        assert torch.equal(gap, learner.gap(batch, predicted))
        assert (gap[:, 12:] == 0).all()
        u = bind(learner.reference.model, batch.seen, batch.draws.negative)
        old = trajectory_gap(u, predicted, batch.x0, batch.x1, batch.draws.step)
        assert not torch.allclose(gap, old)
        ends = predicted[:, :12]
        moved = learner.distances(batch, ends, ends - gap[:, :12])["perceptual"]
        weight = 1.6 / (ends - batch.x0[:, :12]).abs().mean(dim=(1, 2, 3)).clamp(min=1e-3)
        assert torch.allclose(figures["perceptual of trajectories"], (weight * moved).mean(), rtol=1e-4)
    loss.backward()
    assert all(weight.grad is None for weight in learner.reference.model.parameters())
    assert all(weight.grad is not None for weight in model.network.parameters())


def test_the_copy_is_made_anew_now_and_then(recipe):
    learner, model = learner_of(recipe, "trajectory-matching")
    copies = [model.flow.state_dict()["network.stem.weight"].clone()]
    weights = []
    for step in range(4):
        learner.loss(batch_of(recipe, learner.stage, model, step), step)[0].backward()
        learner.update(step)
        copies.append(learner.reference.model.state_dict()["network.stem.weight"].clone())
        weights.append(learner.accelerator.unwrap_model(learner.model).state_dict()["network.stem.weight"].clone())
    assert torch.equal(copies[0], copies[1])
    assert torch.equal(copies[2], weights[1])
    assert torch.equal(copies[2], copies[3])
    assert torch.equal(copies[4], weights[3])
    assert not torch.equal(weights[3], weights[1])


def test_a_killed_run_ends_with_the_same_weights(recipe_file, photos, tmp_path):
    """Before and after the copy is made anew, in the fourth and the sixth step of the run."""
    settings = (f"data.photos={photos}", *SETTINGS, "output.every=1", "optimizer.betas=[0.9,0.9]")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train(recipe_file, *settings, f"output.folder={whole}").status == 0
    log = pieces / "log.jsonl"
    for lines in (3, 5):
        process = start(recipe_file, *settings, f"output.folder={pieces}")
        while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= lines):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    done = train(recipe_file, *settings, f"output.folder={pieces}")
    assert (done.status, "consistency: step" in done.out) == (0, False), done.err
    for name in ("stage-1-consistency", "stage-2-trajectory-matching"):
        expected, found = (load_file(run / f"{name}.safetensors") for run in (whole, pieces))
        assert [key for key, weight in expected.items() if not torch.equal(weight, found[key])] == []
    model = load_model(whole / "model.safetensors")
    assert model.method == CTMSR(0.2)
    low = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    picture = upscale(model, low, 2, seed=1)
    assert torch.equal(picture, upscale(model, low, 2, 4, seed=1))
    assert not torch.equal(picture, upscale(model, low, 2, seed=2))


def test_what_the_stages_need_is_said(recipe_file, photos, monkeypatch, tmp_path):
    fail = partial(failure, recipe_file, STAGES)
    assert 'consistency trains models of the method "ctmsr"' in fail(LPIPS)
    assert "trajectory-matching needs a distance of pictures" in fail(METHOD)
    assert "loss.learned_weight weighs velocities" in fail(METHOD, LPIPS, "loss.learned_weight=true")
    alone = (METHOD, 'stages=[{kind="consistency",steps=1}]')
    assert "consistency training has no loss" in fail(*alone, "consistency.charbonnier=0")
    assert "times.grids must be a list of whole numbers" in fail("times.grids=3")
    assert "times.grids must be a whole number" in fail("times.grids=[3.5]")
    assert "grids must be whole numbers of at least 1" in fail("times.grids=[4,0]")
    assert "consistency.refresh must be at least 1" in fail("consistency.refresh=0")
    assert "optimizer.betas must be" in fail("optimizer.betas=[0.9,1]")
    monkeypatch.setattr("flowmapsr.trainer.run.accelerator.is_sharded", lambda accelerator: True)
    sharded = ("optimizer.ema=0", f"data.photos={photos}", f"output.folder={tmp_path}")
    assert "train the stages adversarial, distillation, trajectory-matching" in fail(METHOD, LPIPS, *sharded)


def test_memory_is_counted_for_the_copy(recipe_file, recipe):
    alone = read_recipe(recipe_file, [METHOD, 'stages=[{kind="consistency",steps=1}]'])
    model = shapes_of_model(alone)
    weights = sum(parameter.numel() for parameter in model.flow.parameters())
    assert estimate_bytes(model, recipe, 1)[0] - estimate_bytes(model, alone, 1)[0] == 4 * weights
