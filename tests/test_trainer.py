"""Whole runs of the trainer through the command a user types."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, upscale
from flowmapsr.flowmapsr_core.checkpoint import describe
from flowmapsr.flowmapsr_core.lora import merge_lora
from flowmapsr.trainer.__main__ import main
from PIL import Image
from safetensors.torch import load_file

TRAINER = [sys.executable, "-m", "flowmapsr.trainer"]
ALL_STAGES = (
    'stages=[{kind="flow-matching",steps=2},{kind="guided",steps=2,objective="lagrangian"},'
    '{kind="adversarial",steps=4}]',
    "adversarial={rank=2, alpha=2, lr=1e-2, warmup=1, r1=0.1, r2=0.1}",
    "optimizer.warmup=1",
    "loss={learned_weight=true, perceptual=1.0, backbone=\"squeeze\", pretrained=false}",
)  # fmt: skip


def arguments(recipe, *overrides):
    return [str(recipe), *(part for override in overrides for part in ("--set", override))]


def train(recipe, *overrides, launcher=TRAINER, **options):
    return subprocess.run(
        [*launcher, *arguments(recipe, *overrides)], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def data(photos):
    return f"data.photos={photos}"


def test_a_run_and_its_files(recipe_file, data, photos, tmp_path):
    out = tmp_path / "run"
    done = train(recipe_file, data, f"data.validation={photos}", f"output.folder={out}", "output.tracker=tensorboard")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out / "model.safetensors")
    assert "self-distillation: step 0 of 2, from " + str(out / "stage-1-flow-matching.safetensors") in done.stdout
    assert "1 files of data.photos are no readable images" in done.stdout
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in log] == [
        (2, "flow-matching"), (4, "self-distillation"), (6, "guided")
    ]  # fmt: skip
    assert "bicubic/mean/gain" in log[0]
    assert Image.open(out / "validation-000006.png").size == (7 * 256, 3 * 256)
    assert list((out / "logs").rglob("events.out.tfevents.*"))
    model = load_model(out / "model.safetensors")
    assert model.info["title"] == "Tiny"
    assert [stage["kind"] for stage in model.info["training"]["stages"]] == [
        "flow-matching", "self-distillation", "guided"
    ]  # fmt: skip
    assert upscale(model, torch.rand(1, 3, 8, 8), 2).shape == (1, 3, 16, 16)
    again = train(recipe_file, data, f"output.folder={out}")
    assert (again.returncode, again.stdout.strip()) == (0, str(out / "model.safetensors"))


def test_killed_at_any_moment_it_ends_with_the_same_weights(recipe_file, data, tmp_path):
    """Every stage and loss; SIGKILL at random moments, a few steps after one another."""
    settings = (data, *ALL_STAGES, "output.every=1")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    done = train(recipe_file, *settings, f"output.folder={whole}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(whole / "lora.safetensors")
    log, moments, ends = pieces / "log.jsonl", random.Random(0), []
    for lines in (1, 3, 6):
        process = subprocess.Popen(
            [*TRAINER, *arguments(recipe_file, *settings, f"output.folder={pieces}")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= lines):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        ends.append(process.wait())
    assert -signal.SIGKILL in ends
    done = train(recipe_file, *settings, f"output.folder={pieces}")
    assert done.returncode == 0, done.stderr
    for name in ("stage-1-flow-matching", "stage-2-guided", "stage-3-adversarial", "model", "lora"):
        expected, found = load_file(whole / f"{name}.safetensors"), load_file(pieces / f"{name}.safetensors")
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), (name, key)
    assert not list(pieces.glob("*.partial"))
    steps = [json.loads(line)["step"] for line in (pieces / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_the_adversarial_stage_makes_a_lora_of_the_model_it_started_from(recipe_file, data, tmp_path):
    done = train(recipe_file, data, *ALL_STAGES, f"output.folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run" / "lora.safetensors"
    described = describe(path)
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert (described["kind"], described["ranks"], described["alpha"]) == ("lora", [2], "2")
    assert described["flowmapsr.base_hash"] == model.info["hash_sha256"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert "score gap" in log[-1]
    image = torch.rand(1, 3, 8, 8)
    before = upscale(model, image, 2)
    merge_lora(model, path, 1.5)
    assert not torch.equal(upscale(model, image, 2), before)


def test_two_processes_and_accumulation_train_the_same_weights(recipe_file, data, tmp_path):
    # Adam divides by the size of the gradient: rounding shows in proportion to the rate
    settings = (data, *ALL_STAGES[:3], "adversarial.lr=1e-3", "optimizer.clip=1e9")
    launch = [*["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "flowmapsr.trainer"]]
    launch.insert(0, sys.executable)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    runs = {
        "one": train(recipe_file, *settings, f"output.folder={tmp_path / 'one'}"),
        "parts": train(recipe_file, *settings, f"output.folder={tmp_path / 'parts'}", "optimizer.accumulate=2"),
        "two": train(recipe_file, *settings, f"output.folder={tmp_path / 'two'}", launcher=launch, env=environment),
    }
    for name, done in runs.items():
        assert done.returncode == 0, (name, done.stderr[-3000:])
        assert f"processes: {2 if name == 'two' else 1}" in done.stdout
    for file in ("model", "lora"):
        expected = load_file(tmp_path / "one" / f"{file}.safetensors")
        for name in ("parts", "two"):
            for key, tensor in load_file(tmp_path / name / f"{file}.safetensors").items():
                assert torch.allclose(tensor, expected[key], atol=2e-5), (name, file, key)


def test_without_averaging_the_weights_themselves_are_exported(recipe_file, data, tmp_path):
    done = train(recipe_file, data, "optimizer.ema=0", "optimizer.checkpoint_activations=true",
                 "optimizer.warmup=1", f"output.folder={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = ("stage-1-flow-matching.safetensors", "model.safetensors")
    first, last = (load_file(tmp_path / "run" / name) for name in files)
    assert first.keys() == last.keys()
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_full_disk_leaves_the_last_good_checkpoint(recipe_file, data, tmp_path):
    out, first = f"output.folder={tmp_path / 'run'}", tmp_path / "run" / "stage-1-flow-matching.safetensors"
    process = subprocess.Popen([*TRAINER, *arguments(recipe_file, data, out)], stderr=subprocess.DEVNULL)
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = first.read_bytes()

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = train(recipe_file, data, out, preexec_fn=small_files)
    assert done.returncode == 2
    assert "could not write to" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert first.read_bytes() == kept
    assert train(recipe_file, data, out).returncode == 0


def test_a_folder_belongs_to_one_recipe(recipe_file, data, tmp_path):
    out = f"output.folder={tmp_path / 'run'}"
    assert train(recipe_file, data, 'stages=[{kind="flow-matching",steps=1}]', out).returncode == 0
    done = train(recipe_file, data, 'stages=[{kind="flow-matching",steps=1}]', "optimizer.lr=1e-5", out)
    assert done.returncode == 2
    assert "another recipe: optimizer.lr is 0.0004 there, 1e-05 now" in done.stderr


def test_weights_are_shared_with_the_checkpoint_it_starts_from(recipe_file, data, tmp_path):
    out = tmp_path / "run"
    base = train(recipe_file, data, 'stages=[{kind="flow-matching",steps=2}]', f"output.folder={out}")
    assert base.returncode == 0, base.stderr
    start = f"start_from={out / 'model.safetensors'}"
    stage = 'stages=[{kind="guided",steps=2}]'
    more = train(recipe_file, data, stage, start, "model.network.decoder_blocks=[2]", f"output.folder={tmp_path / '2'}")
    assert more.returncode == 0, more.stderr
    line = next(line for line in more.stdout.splitlines() if line.startswith("new weights"))
    assert "network.decoder.0.1.conv1.weight" in line
    assert "network.decoder.0.0" not in line
    other = train(recipe_file, data, stage, start, "model.network.widths=[8,16]", f"output.folder={tmp_path / '3'}")
    assert other.returncode == 2
    assert "does not fit the recipe's model" in other.stderr
    assert "leave out the recipe's [model] section" in other.stderr


def test_a_stage_can_keep_of_what_it_started_from(recipe_file, data, tmp_path):
    stages = 'stages=[{{kind="flow-matching",steps=2}},{{kind="guided",steps=2,keep={}}}]'
    runs = {}
    for keep in (0.0, 0.25):
        out = tmp_path / str(keep)
        done = train(recipe_file, data, stages.format(keep), "optimizer.warmup=1", f"output.folder={out}")
        assert done.returncode == 0, done.stderr
        runs[keep] = load_file(out / "stage-2-guided.safetensors")
    start = load_file(out / "stage-1-flow-matching.safetensors")
    for name, weight in runs[0.25].items():
        assert torch.allclose(weight, 0.75 * runs[0.0][name] + 0.25 * start[name], atol=1e-6)
    assert any(not torch.equal(start[name], runs[0.0][name]) for name in start)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.photos={nowhere}", "is not a folder"), ("data.photos=", "must name a folder"),
        ("data.photos={empty}", "holds no readable image"),
        ("output.tracker=crystal-ball", "crystal-ball"), ("optimizer.accumulate=3", "degrade.groups is 4"),
        ("start_from={empty}/x.safetensors", "no such file"),
        ("optimizer.lr=1e30", "velocity loss is inf at step 2"),
        ("data.budgets=[{{side=2048,batch=4}}]", "no photograph of at least 2048x2048"),
        ("output.folder=/dev/null/run", "could not write to"), ("data.validation={empty}", "holds no readable image"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_line(recipe_file, data, tmp_path, monkeypatch, capsys, override, message):
    (tmp_path / "empty").mkdir()
    override = override.format(nowhere=tmp_path / "nowhere", empty=tmp_path / "empty")
    settings = ("optimizer.warmup=0", "optimizer.clip=1e30", 'stages=[{kind="flow-matching",steps=9}]')
    command = arguments(recipe_file, data, *settings, f"output.folder={tmp_path / 'out'}", override)
    monkeypatch.setattr(sys, "argv", ["trainer", *command])
    assert main() == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert message in last


def test_an_error_ends_with_status_2_and_no_traceback(recipe_file, data):
    done = train(recipe_file, data, "optimizer.lr=fast")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "optimizer.lr must be a number" in done.stderr
