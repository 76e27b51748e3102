"""Recipes: errors that name the key, the shipped ones, the dry run."""

from pathlib import Path

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from flowmapsr.trainer.data.crops import training_photos
from flowmapsr.trainer.learning.schedule import Optimizer, lr_factor
from flowmapsr.trainer.losses.adversarial import Adversarial
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.estimate import estimate_bytes
from flowmapsr.trainer.run.start import build_model, shapes_of_model
from trainer_process import failure, train

RECIPES = sorted((Path(__file__).parent.parent / "trainer" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_valid_and_want_photographs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(path, [])
    assert recipe.steps > 0
    with pytest.raises(UserError, match=r"photos is not a folder; name one .* --set data.photos=FOLDER"):
        training_photos(recipe.data)


@pytest.mark.parametrize("name", ["oftsr", "ctmsr-small"])
def test_a_small_recipe_trains_a_model_that_upscales(name, photos, tmp_path):
    """All of its stages, a step of each."""
    (path,) = (path for path in RECIPES if path.stem == name)
    stages = ",".join(f'{{kind="{stage.kind}",steps=1}}' for stage in read_recipe(path, []).stages)
    small = (f"stages=[{stages}]", "data.budgets=[{side=64,batch=2}]", "degrade.groups=2", "output.tracker=none")
    done = train(path, *small, f"data.photos={photos}", f"output.folder={tmp_path}")
    assert done.status == 0, done.err
    model = load_model(tmp_path / "model.safetensors")
    assert model.method.noise > 0
    assert upscale(model, torch.rand(1, 3, 8, 8), 2, seed=1).isfinite().all()


def test_a_dry_run_resolves_the_recipe_and_says_what_it_takes():
    (path,) = (path for path in RECIPES if path.stem == "built-in")
    done = train(path, "seed=3", options=["--dry-run"])
    assert done.status == 0, done.err
    assert '"seed": 3' in done.out
    *_, weights, memory = done.out.splitlines()
    assert weights.startswith("2,795,299 weights")
    assert "GiB for activations" in memory


def test_a_dry_run_reads_and_makes_no_weights(recipe_file, tmp_path, monkeypatch):
    vae = VAECodec(VAECodecConfig(block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=16))
    start, latent = tmp_path / "start.safetensors", tmp_path / "latent.toml"
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), vae), start)
    text = recipe_file.read_text()
    latent.write_text(text[: text.index("[model.network]")] + text[text.index("[[data.budgets]]") :])
    overrides = (f"start_from={start}", "optimizer.checkpoint_activations=true")
    recipe = read_recipe(latent, list(overrides))
    shapes, whole = shapes_of_model(recipe), build_model(recipe, recipe.start_from)[0]
    assert all(weight.is_meta for weight in shapes.tensors().values())
    described = [
        [(name, weight.shape, weight.requires_grad) for name, weight in model.flow.named_parameters()]
        for model in (shapes, whole)
    ]
    assert described[0] == described[1]
    assert (shapes.config(), shapes.info) == (whole.config(), whole.info)

    def fail(*_, **__):
        raise AssertionError("weights are read")

    monkeypatch.setattr("flowmapsr.flowmapsr_core.files.checkpoint.safe_open", fail)
    monkeypatch.setattr("flowmapsr.trainer.run.start.encode_prompts", fail)
    done = train(latent, *overrides, f"prompts.text_encoder={tmp_path}", options=["--dry-run"])
    assert done.status == 0, done.err
    trained = sum(weight.numel() for weight in whole.network.parameters())
    assert f"{trained:,} weights" in done.out
    assert "holds a UNet on" in failure(recipe_file, *overrides, options=["--dry-run"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crops=3", "unknown key data.crops"), ("data.budgets=[{side=4}]", "data.budgets.side"),
        ("data.budgets=3", "data.budgets must be written as"), ("data.budgets=[{side=64,batch=5}]", "batch .5. must"),
        ("times.levels=9", "levels"), ("degrade.presets.foggy=1", "foggy"), ("optimizer.lr=-1", "optimizer.lr"),
        ("degrade.factor=[4]", "degrade.factor"), ("seed", "section.key=value"), ("stages=[]", "stages"),
        ("model.network.type=Transformer", "Transformer"), ("model.network.widths=8", "network.widths must be a list"),
        ("times.jumps=0", "self-distillation needs times.jumps above 0"),
        ("stages=[{kind='guided',steps=1,keep=0.5}]", "keep is the first stage's only"),
        ("model.network.width=3", "width"),
        ("data.workers='two'", "data.workers must be a whole number"), ("guidance.mode=both", "guidance.mode"),
        ("loss.learned_weight=1", "loss.learned_weight must be true or false"), ("model={}", "start_from"),
        ("stages=[{kind='guided',steps=1,objective='leap'}]", "guided cannot have the objective 'leap'; it"),
        ("stages=[{kind='adversarial',steps=1}]", "start_from must name"), ("loss.backbone=resnet", "loss.backbone"),
        ("stages=[{kind='adversarial',steps=1},{kind='guided',steps=1}]", "adversarial must be the last"),
    ],
)  # fmt: skip
def test_bad_recipes_name_the_key(recipe_file, override, message):
    with pytest.raises(UserError, match=message):
        read_recipe(recipe_file, [override])


@pytest.mark.parametrize("name", ["2024", "2024-05-01", "1_000", "true", "[a]", '"quoted"', "07:32:00"])
def test_folders_may_be_named_like_numbers_and_dates(recipe_file, name):
    recipe = read_recipe(recipe_file, [f"data.photos={name}", f"output.folder={name}", f"start_from= {name}"])
    assert recipe.data.photos == recipe.output.folder == recipe.start_from == name.strip('"')


def test_a_checkpoint_of_another_architecture_is_refused(recipe_file, small_model, tmp_path):
    save_checkpoint(small_model, tmp_path / "model.safetensors")
    for overrides, message in (
        (["model.network.widths=[8, 12]"], "does not fit the recipe's model"),
        (["model.codec.factor=4", "model.network.unshuffle=4"], "the recipe's model is a LocalNet on"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(read_recipe(recipe_file, overrides), tmp_path / "model.safetensors")


def test_gradient_penalties_are_off_unless_asked_for():
    assert (Adversarial().r1, Adversarial().r2) == (0, 0)


def test_the_memory_estimate_counts_what_autograd_keeps(recipe_file):
    plain, saving = (
        read_recipe(recipe_file, ["precision=no", f"optimizer.checkpoint_activations={switch}"])
        for switch in ("false", "true")
    )
    model = shapes_of_model(plain)
    weights = sum(parameter.numel() for parameter in model.flow.parameters())
    fixed, kept = estimate_bytes(model, plain, 1)
    assert fixed == weights * 4 * 5  # weights, gradients, two moments, average
    assert estimate_bytes(model, plain, 2)[1] == pytest.approx(kept / 2, rel=0.1)
    assert estimate_bytes(shapes_of_model(saving), saving, 1)[1] < 0.9 * kept


def test_learning_rate_rises_holds_and_falls():
    optimizer = Optimizer(warmup=10, decay=0.5)
    assert lr_factor(0, 0, 100, optimizer) == 0.1
    assert lr_factor(30, 0, 100, optimizer) == 1
    assert lr_factor(30, 30, 100, optimizer) == 0.1  # a new stage warms up again
    assert lr_factor(75, 0, 100, optimizer) == pytest.approx(0.5)
    assert lr_factor(100, 0, 100, optimizer) == pytest.approx(0)
    assert lr_factor(150, 100, 100, optimizer) == 1  # adversarial fine-tuning comes after the cosine
