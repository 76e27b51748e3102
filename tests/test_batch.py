"""What a training step is made of: draws, targets, watching the loss."""

import dataclasses

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.recipe.recipe import Stage
from flowmapsr.trainer.run.batch import draw, generator_of, make_batch, make_target
from flowmapsr.trainer.run.watch import EXPLODED, PATIENCE, LossWatch

GUIDED = ("guided", "adversarial")


def batch_of(recipe, stage, model, seed=9):
    hr = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = draw(recipe, stage, 8, generator_of(seed))
    return make_batch(hr, draws, recipe, model, [generator_of(seed, group) for group in range(4)])


@pytest.mark.parametrize("kind", ["flow-matching", "self-distillation", *GUIDED])
@pytest.mark.parametrize("objective", ["shortcut", "lagrangian", "lagrangian-biased", "eulerian"])
def test_targets_of_every_stage(recipe_file, small_model, kind, objective):
    recipe, stage = read_recipe(recipe_file, []), Stage(kind, 1, objective)
    batch = batch_of(recipe, stage, small_model)
    draws, jump = batch.draws, batch.draws.jump
    target = make_target(batch, small_model.flow, recipe, stage)
    assert target.shape == batch.x_t.shape
    assert target.isfinite().all()
    assert jump.sum() == (0 if kind == "flow-matching" else 4)
    assert torch.equal(draws.t[~jump], draws.s[~jump])
    assert (draws.t[jump] > draws.s[jump]).all()
    plain = ~jump & (draws.w == 1)
    assert torch.equal(target[plain], batch.v[plain])
    guided = ~jump & (draws.w != 1)
    assert guided.any() == (kind in GUIDED)
    assert all(not torch.equal(a, b) for a, b in zip(target[guided], batch.v[guided], strict=True))
    assert (draws.w[draws.negative] == 1).all()
    assert torch.equal(batch.x_t, batch_of(recipe, stage, small_model).x_t)


@pytest.mark.parametrize(("mode", "seen"), [("input", True), ("hidden", False), ("fixed", False)])
def test_guidance_modes(recipe_file, small_model, mode, seen):
    recipe = read_recipe(recipe_file, [f"guidance.mode={mode}", "guidance.scale=[1.5, 3]"])
    batch = batch_of(recipe, Stage("guided", 1), small_model)
    w = batch.draws.w[~batch.draws.negative]
    assert (w == 3).all() if mode == "fixed" else len(set(w.tolist())) == len(w)
    assert torch.equal(batch.seen, batch.draws.w if seen else torch.ones(8))


def test_a_step_shared_out_is_the_whole_step(recipe_file, small_model):
    recipe, stage = read_recipe(recipe_file, []), Stage("guided", 1)
    whole = batch_of(recipe, stage, small_model)
    hr = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = draw(recipe, stage, 8, generator_of(9))
    for part in range(2):
        rows = slice(4 * part, 4 * part + 4)
        generators = [generator_of(9, group) for group in (2 * part, 2 * part + 1)]
        own = make_batch(hr[rows], draws.rows(rows), recipe, small_model, generators)
        assert torch.equal(own.x_t, whole.x_t[rows])
        assert dataclasses.astuple(own.draws)[0].tolist() == whole.draws.t[rows].tolist()
    assert own.draws.jump.sum() == 2  # jumps are shared out too


def test_an_exploding_loss_stops_the_run(tmp_path):
    watch = LossWatch()
    for step in range(50):
        watch.check({"velocity": 1.0, "jump": 0.1}, step, tmp_path)
    watch.check({"velocity": 1.5 * EXPLODED, "jump": 0.1}, 50, tmp_path)  # a single bad batch is no explosion
    watch.check({"velocity": 1.0, "jump": 0.1}, 51, tmp_path)
    for step in range(PATIENCE - 1):
        watch.check({"velocity": 1.0, "jump": 0.2 * EXPLODED}, 52 + step, tmp_path)
    with pytest.raises(UserError, match="jump loss has exploded at step 99"):
        watch.check({"velocity": 1.0, "jump": 0.2 * EXPLODED}, 99, tmp_path)
    with pytest.raises(UserError, match="perceptual loss is nan at step 9"):
        LossWatch().check({"velocity": 1.0, "perceptual": float("nan")}, 9, tmp_path)
