"""Distillation: a one-step student of a frozen teacher, from what is drawn to a run that is killed."""

import dataclasses
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.method.methods import FlowMapMethod
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import LocalNet, LocalNetConfig
from flowmapsr.trainer.data.time_pairs import TimePairs
from flowmapsr.trainer.objectives import anchored, trajectory_target
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.recipe.recipe import Stage
from flowmapsr.trainer.run.batch import bind, draw, generator_of, make_batch, make_target
from flowmapsr.trainer.run.distillation import DistillationLearner
from flowmapsr.trainer.run.estimate import estimate_bytes
from flowmapsr.trainer.run.start import shapes_of_model
from safetensors.torch import load_file
from trainer_process import failure, start, train

STAGE = Stage("distillation", 10)
NOISE = 'model.method={type="flow-map",noise=0.3,preserving=true,condition=true}'
STAGES = 'stages=[{kind="flow-matching",steps=1},{kind="distillation",steps=4}]'


@pytest.fixture
def noisy_model(small_model):
    """A model that starts from noise and sees LR, with weights that are not zero."""
    torch.manual_seed(2)
    config = dataclasses.replace(small_model.network.config, inputs=2)
    model = Model(FlowMap(LocalNet(config), FlowMapMethod(0.3, True, True)), PixelCodec(), {"guided_before": False})
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch_of(recipe, model, seed=0, guided=False):
    hr = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    draws = draw(recipe, STAGE, 8, generator_of(seed), guided=guided)
    return make_batch(hr, draws, recipe, model, [generator_of(seed, group) for group in range(4)])


def test_a_stage_has_an_objective_of_its_own():
    assert STAGE.objective == "trajectory"
    assert Stage("guided", 1).objective == "shortcut"
    for kind, objective in (("distillation", "shortcut"), ("guided", "consistency")):
        with pytest.raises(UserError, match=f"{kind} cannot have the objective {objective!r}; it has "):
            Stage(kind, 1, objective)
    with pytest.raises(UserError, match="guided has no teacher"):
        Stage("guided", 1, teacher="x.safetensors")


def test_all_jumps_start_at_1(recipe_file):
    recipe = read_recipe(recipe_file, ["times={jumps=0.75,levels=3}"])
    draws = draw(recipe, STAGE, 4000, generator_of(1))
    assert (draws.t == 1).all()
    assert draws.jump.float().mean() == 0.75
    assert (draws.s[~draws.jump] == 1).all()
    assert set(draws.s[draws.jump].tolist()) == {k / 4 for k in range(4)}
    assert (draws.step == 1 / 4).all()  # not 1 / 16, whose midpoints are between the teacher's times
    assert TimePairs().solver_step == TimePairs(step=1 / 16).step
    assert "step must be 1, 1/2" in failure(recipe_file, "times.step=0.05")
    assert not draws.negative.any()
    assert (draws.w == 1).all()


def test_guidance_is_drawn_for_a_teacher_that_has_learned_it(recipe_file):
    recipe = read_recipe(recipe_file, ["guidance={scale=[2,3],negative=0.5}"])
    draws = draw(recipe, STAGE, 100, generator_of(1), guided=True)
    assert ((draws.w >= 2) & (draws.w <= 3)).all()
    assert not draws.negative.any()


@torch.no_grad()
def test_targets_are_the_students_jumps_and_the_teachers_velocities(recipe_file, noisy_model):
    recipe = read_recipe(recipe_file, ["times.jumps=0.5"])
    batch, student = batch_of(recipe, noisy_model), noisy_model.flow
    asked = []

    def teacher(x, t, s, w, negative):
        asked.append((t, s, w))
        return torch.sin(3 * x) + t.reshape(-1, 1, 1, 1)

    u = anchored(student, teacher)
    target = make_target(batch, u, recipe, STAGE)
    draws, jump = batch.draws, batch.draws.jump
    assert all(t is s for t, s, _ in asked)
    assert torch.equal(target[~jump], teacher(batch.x1, draws.t, draws.t, None, None)[~jump])
    part = draws.rows(jump)
    bound = bind(u, batch.seen[jump], part.negative)
    expected = trajectory_target(bound, batch.x1[jump], batch.v[jump], part.t, part.s, part.step)
    assert torch.equal(target[jump], expected)
    assert torch.equal(batch.x_t, batch.x1)


def solved(teacher, x1, steps, realism):
    """The dial's picture of a teacher's midpoint solver: the chord from x1 through its state, prolonged to time 0."""
    x, d = x1, realism / steps
    for k in range(steps):
        t, h = (torch.full((len(x),), 1 - d * (k + half)) for half in (0, 0.5))
        x = x - d * teacher(x - d / 2 * teacher(x, t, t), h, h)
    return x1 + (x - x1) / realism


def test_the_students_dial_follows_its_teachers_trajectory(recipe_file, noisy_model):
    """At the sample's end and between, in one evaluation, though its weights were disturbed; the teacher's stay."""
    recipe = read_recipe(recipe_file, ["optimizer={lr=3e-3,ema=0}", "times={jumps=0.9,levels=4}"])
    learner = DistillationLearner(recipe, STAGE, noisy_model, Accelerator(cpu=True))
    before = {name: weight.clone() for name, weight in learner.frozen.state_dict().items()}
    x1 = batch_of(recipe, noisy_model, 99).x1
    w, negative = torch.ones(8), torch.zeros(8, dtype=torch.bool)

    @torch.no_grad()
    def distances():
        teacher, student = (bind(model, w, negative) for model in (learner.frozen, learner.result()))
        pairs = [(sample(student, x1, 1, realism=r), solved(teacher, x1, 16, r)) for r in (0.5, 1.0)]
        return [((a - b).norm() / (b - x1).norm()).item() for a, b in pairs]

    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    first = distances()
    for step in range(40):
        loss, figures = learner.loss(batch_of(recipe, noisy_model, step), step)
        loss.backward()
        learner.update(step)
    last = distances()
    assert figures.keys() == {"velocity", "jump"}
    assert all(after < before / 2 for before, after in zip(first, last, strict=True)), (first, last)
    assert all(torch.equal(weight, before[name]) for name, weight in learner.frozen.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.frozen.parameters())


def test_a_killed_run_ends_with_the_same_weights(recipe_file, photos, tmp_path, monkeypatch):
    settings = (f"data.photos={photos}", NOISE, STAGES, "output.every=1", "optimizer.warmup=1")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    teachers = []
    result = DistillationLearner.result
    monkeypatch.setattr(DistillationLearner, "result", lambda self: teachers.append(self.frozen) or result(self))
    assert train(recipe_file, *settings, f"output.folder={whole}").status == 0
    taught = load_file(whole / "stage-1-flow-matching.safetensors")
    assert all(torch.equal(weight, taught[name]) for name, weight in teachers[-1].state_dict().items())
    process, log = start(recipe_file, *settings, f"output.folder={pieces}"), pieces / "log.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = train(recipe_file, *settings, f"output.folder={pieces}")
    assert (done.status, "distillation: step 0" in done.out) == (0, False), done.err
    expected, found = (load_file(run / "stage-2-distillation.safetensors") for run in (whole, pieces))
    assert [name for name, weight in expected.items() if not torch.equal(weight, found[name])] == []
    assert any(not torch.equal(weight, taught[name]) for name, weight in expected.items())


def test_another_checkpoint_may_teach(recipe_file, photos, tmp_path, small_model):
    file = tmp_path / "teacher.safetensors"
    model = Model(small_model.flow, small_model.codec)
    save_checkpoint(model, file)
    out = tmp_path / "run"
    stages = f'stages=[{{kind="distillation",steps=1,teacher="{file.as_posix()}"}}]'
    done = train(recipe_file, f"data.photos={photos}", stages, f"output.folder={out}")
    assert done.status == 0, done.err  # fresh weights, and a network of another shape
    told = load_model(out / "model.safetensors").info["training"]["stages"][0]
    assert told["teacher"] == "teacher.safetensors"
    other = failure(recipe_file, f"data.photos={photos}", stages, NOISE, f"output.folder={tmp_path / 'other'}")
    assert f"the teacher {file} has another codec or method" in other


def test_what_a_distillation_needs_is_said(recipe_file, photos, monkeypatch, tmp_path):
    alone = 'stages=[{kind="distillation",steps=1}]'
    assert "distillation needs a teacher" in failure(recipe_file, alone)
    assert "distillation needs times.jumps above 0" in failure(recipe_file, STAGES, "times.jumps=0")
    ctmsr = 'model.method={type="ctmsr",noise=0.1}'
    assert 'flow-matching trains models of the method "flow-map"' in failure(recipe_file, STAGES, ctmsr)
    monkeypatch.setattr("flowmapsr.trainer.run.accelerator.is_sharded", lambda accelerator: True)
    sharded = ("optimizer.ema=0", f"data.photos={photos}", f"output.folder={tmp_path}")
    assert "train the stages adversarial, distillation" in failure(recipe_file, STAGES, *sharded)


def test_memory_is_counted_for_the_teacher(recipe_file, tmp_path):
    alone, taught = (read_recipe(recipe_file, [stages]) for stages in ('stages=[{kind="guided",steps=1}]', STAGES))
    model = shapes_of_model(alone)
    weights = sum(parameter.numel() for parameter in model.flow.parameters())
    assert estimate_bytes(model, taught, 1)[0] - estimate_bytes(model, alone, 1)[0] == 4 * weights
    file = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    large = Model(FlowMap(LocalNet(LocalNetConfig(widths=(8,), encoder_blocks=(1,), decoder_blocks=()))), PixelCodec())
    save_checkpoint(large, file)
    stages = f'stages=[{{kind="distillation",steps=1,teacher="{file.as_posix()}"}}]'
    more = estimate_bytes(model, read_recipe(recipe_file, [stages]), 1)[0] - estimate_bytes(model, alone, 1)[0]
    assert more == 4 * sum(parameter.numel() for parameter in large.flow.parameters())
