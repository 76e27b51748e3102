"""The trainer: recipes, data, and a whole small run through the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.trainer.batch import make_batch, make_target
from flowmapsr.trainer.data import PhotoCrops
from flowmapsr.trainer.loop import EXPLODED, PATIENCE, LossWatch, lr_factor
from flowmapsr.trainer.pairs import make_pairs
from flowmapsr.trainer.recipe import Degrade, Optimizer, Stage, read_recipe
from PIL import Image

RECIPES = Path(__file__).parent.parent / "trainer" / "recipes"

RECIPE = """
batch = 4
stages = [
  { kind = "flow-matching", steps = 2 },
  { kind = "self-distillation", steps = 2 },
  { kind = "guided", steps = 2 },
]
[model.network]
type = "LocalNet"
widths = [8, 8]
encoder_blocks = [0, 1]
decoder_blocks = [1]
head_width = 4
condition_dim = 16
prompt_dim = 4
[model.codec]
type = "PixelCodec"
[data]
crop = 32
[degrade]
presets = { flowmapsr = 1, real-esrgan = 1 }
factor = [2, 4]
[times]
jumps = 0.5
[guidance]
negative = 0.4
[output]
every = 2
title = "Tiny"
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (24, 36, 3), dtype=np.uint8))
        coarse.resize((540, 360)).save(folder / ("more" if index else ".") / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def recipe_file(tmp_path, photos):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def command(recipe, *overrides):
    settings = [part for override in overrides for part in ("--set", override)]
    return subprocess.run(
        [sys.executable, "-m", "flowmapsr.trainer", recipe, *settings], capture_output=True, text=True, check=False
    )


def test_a_run_its_files_and_its_resumption(recipe_file, photos, tmp_path):
    """Three stages; the same run in two pieces ends with the same weights, bit for bit."""
    common = (f"data.photos={photos}", f"data.validation={photos}")
    whole = tmp_path / "whole"
    done = command(recipe_file, *common, f"output.folder={whole}")
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in log] == [
        (2, "flow-matching"), (4, "self-distillation"), (6, "guided")
    ]  # fmt: skip
    assert "bicubic/mean/gain" in log[0]
    assert Image.open(whole / "validation-000006.png").size[0] == 6 * 256
    model = load_model(whole / "model.safetensors")
    assert model.info["title"] == "Tiny"
    assert upscale(model, torch.rand(1, 3, 8, 8), 2).shape == (1, 3, 16, 16)

    pieces = tmp_path / "pieces"
    # the schedule's length is the recipe's: stop the first piece by a wrong folder for the later crops
    script = (
        "import sys, flowmapsr.trainer.loop as loop\n"
        "kept = loop.save\n"
        "def save(accelerator, folder, step):\n"
        "    kept(accelerator, folder, step)\n"
        "    if step == 4: raise SystemExit(7)\n"
        "loop.save = save\n"
        "from flowmapsr.trainer.__main__ import main\n"
        "sys.exit(main())\n"
    )
    settings = [part for override in (*common, f"output.folder={pieces}") for part in ("--set", override)]
    stopped = subprocess.run([sys.executable, "-c", script, recipe_file, *settings], capture_output=True, check=False)
    assert stopped.returncode == 7, stopped.stderr
    done = command(recipe_file, *common, f"output.folder={pieces}")
    assert done.returncode == 0, done.stderr
    resumed = load_model(pieces / "model.safetensors").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name
    assert not (pieces / "state.partial").exists()


def test_the_shipped_recipes_are_valid_and_dry_run_resolves_them():
    for path in RECIPES.glob("*.toml"):
        assert read_recipe(path, []).steps > 0
    done = subprocess.run(
        [sys.executable, "-m", "flowmapsr.trainer", RECIPES / "built-in.toml", "--set", "batch=3", "--dry-run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"batch": 3' in done.stdout
    assert "weights" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crops=3", "unknown key data.crops"), ("data.crop=4", "data.crop"), ("batch='two'", "batch must be"),
        ("times.levels=9", "levels"), ("degrade.presets.foggy=1", "foggy"), ("optimizer.lr=-1", "optimizer.lr"),
        ("degrade.factor=[4]", "degrade.factor"), ("seed", "section.key=value"), ("stages=[]", "stages"),
        ("model.network.type=Transformer", "Transformer"), ("model.network.width=3", "width"),
    ],
)  # fmt: skip
def test_bad_recipes_name_the_key(recipe_file, override, message):
    with pytest.raises(UserError, match=message):
        read_recipe(recipe_file, [override])


def test_bad_data_is_said_with_status_2(recipe_file, tmp_path):
    done = command(recipe_file, f"data.photos={tmp_path / 'nowhere'}", f"output.folder={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "is not a folder" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_crops_are_the_same_for_a_seed_and_skip_broken_files(photos):
    first, second = (PhotoCrops(photos, 64, (1, 3), seed) for seed in (5, 5))
    assert len(first.paths) == 3
    assert torch.equal(first[1000], second[1000])
    assert not torch.equal(first[1000], first[1001])
    assert not torch.equal(first[1000], PhotoCrops(photos, 64, (1, 3), 6)[1000])
    crop = first[0]
    assert crop.shape == (3, 64, 64)
    assert crop.min() >= 0
    assert crop.max() <= 1


def test_negative_samples_get_a_milder_target(generator):
    hr = torch.rand(8, 3, 32, 32, generator=generator)
    negative = torch.tensor([True, False] * 4)
    recipe = Degrade(presets={"bicubic": 1.0}, factor=(4, 4), balance=1.0)
    target, lr, weight = make_pairs(hr, recipe, negative, generator)
    assert torch.equal(target[1::2], hr[1::2])
    assert torch.equal(weight, torch.ones(8))
    milder, full = ((image - hr).square().mean(dim=(1, 2, 3))[::2] for image in (target, lr))
    assert (milder < full).all()


@pytest.mark.parametrize("kind", ["flow-matching", "self-distillation", "guided"])
def test_targets_of_every_stage(recipe_file, small_model, generator, kind):
    recipe, stage = read_recipe(recipe_file, []), Stage(kind, 1)
    hr = torch.rand(8, 3, 32, 32, generator=generator)
    batch = make_batch(hr, recipe, stage, small_model.codec, generator)
    target = make_target(batch, small_model, recipe, stage)
    assert target.shape == batch.x_t.shape
    assert batch.jumps == (0 if kind == "flow-matching" else 4)
    assert torch.equal(batch.t[batch.jumps :], batch.s[batch.jumps :])
    assert (batch.t[: batch.jumps] > batch.s[: batch.jumps]).all()
    plain = batch.w[batch.jumps :] == 1
    assert torch.equal(target[batch.jumps :][plain], batch.v[batch.jumps :][plain])
    assert bool((batch.w != 1).any()) == (kind == "guided")
    assert (batch.w[batch.negative] == 1).all()
    repeat = make_batch(hr, recipe, stage, small_model.codec, torch.Generator().manual_seed(9))
    again = make_batch(hr, recipe, stage, small_model.codec, torch.Generator().manual_seed(9))
    assert torch.equal(repeat.x_t, again.x_t)


def test_learning_rate_rises_holds_and_falls():
    optimizer = Optimizer(warmup=10, decay=0.5)
    assert lr_factor(0, 100, optimizer) == 0.1
    assert lr_factor(30, 100, optimizer) == 1
    assert lr_factor(75, 100, optimizer) == pytest.approx(0.5)
    assert lr_factor(100, 100, optimizer) == pytest.approx(0)


def test_an_exploding_loss_stops_the_run(tmp_path):
    watch = LossWatch()
    for step in range(50):
        watch.check(1.0, step, tmp_path)
    watch.check(1.5 * EXPLODED, 50, tmp_path)  # a single bad batch is no explosion
    watch.check(1.0, 51, tmp_path)
    for step in range(PATIENCE - 1):
        watch.check(2 * EXPLODED, 52 + step, tmp_path)
    with pytest.raises(UserError, match="exploded at step 99"):
        watch.check(2 * EXPLODED, 99, tmp_path)
    with pytest.raises(UserError, match="nan at step 9"):
        LossWatch().check(float("nan"), 9, tmp_path)
