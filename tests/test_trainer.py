"""Whole runs of the trainer through the command a user types."""

import gc
import json
import math
import multiprocessing
import random
import re
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.files.lora import merge_lora
from flowmapsr.flowmapsr_core.method.looks import learned_guidance
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from flowmapsr.trainer.data.photos import find_photos
from flowmapsr.trainer.learning.adapter import add_lora
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.export import export, stage_file, start_of
from flowmapsr.trainer.run.loop import StageRun
from flowmapsr.trainer.run.start import build_model
from flowmapsr.trainer.run.state import claim_folder, written
from PIL import Image
from safetensors.torch import load_file, save_file
from trainer_process import arguments, failure, small_files, start, stop_at, train, train_on_two

ALL_STAGES = (
    'stages=[{kind="flow-matching",steps=2},{kind="guided",steps=2,objective="lagrangian"},'
    '{kind="adversarial",steps=4}]',
    "adversarial={rank=2, alpha=2, lr=1e-2, warmup=1, r1=0.1, r2=0.1}",
    "optimizer.warmup=1",
    "loss={learned_weight=true, perceptual=1.0, backbone=\"squeeze\", pretrained=false}",
)  # fmt: skip


@pytest.fixture
def data(photos):
    return f"data.photos={photos}"


def test_a_run_and_its_files(recipe_file, data, photos, tmp_path, monkeypatch):
    out, held_out, searched = tmp_path / "run", tmp_path / "held-out", []

    def search(folder, *rest):
        searched.append(folder)
        return find_photos(folder, *rest)

    monkeypatch.setattr("flowmapsr.trainer.data.crops.find_photos", search)
    held_out.mkdir()
    (photos / "0.png").rename(held_out / "0.png")
    done = train(recipe_file, data, f"data.validation={held_out}", f"output.folder={out}", "output.tracker=tensorboard")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == str(out / "model.safetensors")
    assert "self-distillation: step 0 of 2, from " + str(out / "stage-1-flow-matching.safetensors") in done.out
    assert done.out.count("1 files of data.photos are no readable images") == 3
    assert searched == [photos]
    assert re.search(r"5/6 \[\d+:\d+<.*step.*loss=0\.\d+", done.err)  # time left, throughput, loss
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in log] == [
        (2, "flow-matching"), (4, "self-distillation"), (6, "guided")
    ]  # fmt: skip
    assert "bicubic/mean/gain" in log[0]
    assert ["bicubic/balanced/gain" in line for line in log] == [False, False, True]  # where the network sees w
    assert Image.open(out / "validation-000004.png").size == (9 * 256, 256)
    assert Image.open(out / "validation-000006.png").size == (10 * 256, 256)
    assert list((out / "logs").rglob("events.out.tfevents.*"))
    model = load_model(out / "model.safetensors")
    assert model.info["title"] == "Tiny"
    assert [stage["kind"] for stage in model.info["training"]["stages"]] == [
        "flow-matching", "self-distillation", "guided"
    ]  # fmt: skip
    assert upscale(model, torch.rand(1, 3, 8, 8), 2).shape == (1, 3, 16, 16)
    assert not list(out.glob("state*"))
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "state.old").mkdir()  # as if it had been stopped before the last one was taken away
    again = train(recipe_file, data, f"output.folder={out}")
    assert (again.status, again.out.splitlines()[-1]) == (0, str(out / "model.safetensors"))
    assert f"every stage in {out} is done" in again.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == files


def test_killed_at_any_moment_it_ends_with_the_same_weights(recipe_file, data, tmp_path):
    """Every stage and loss; SIGKILL at random moments, a few steps after one another."""
    settings = (data, *ALL_STAGES, "output.every=1")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    done = train(recipe_file, *settings, f"output.folder={whole}")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == str(whole / "lora.safetensors")
    log, moments, ends = pieces / "log.jsonl", random.Random(0), []
    for lines in (1, 3, 6):
        process = start(recipe_file, *settings, f"output.folder={pieces}")
        while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= lines):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert -signal.SIGKILL in ends
    done = train(recipe_file, *settings, f"output.folder={pieces}", "data.workers=1")
    assert done.status == 0, done.err
    for name in ("stage-1-flow-matching", "stage-2-guided", "stage-3-adversarial", "model", "lora"):
        expected, found = load_file(whole / f"{name}.safetensors"), load_file(pieces / f"{name}.safetensors")
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), (name, key)
    assert not list(pieces.glob("*.partial"))
    steps = [json.loads(line)["step"] for line in (pieces / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_lets_the_step_end_and_saves_it(recipe_file, data, tmp_path, monkeypatch, number, workers):
    stages = 'stages=[{kind="flow-matching",steps=2},{kind="guided",steps=4}]'
    settings = (recipe_file, data, stages, "output.every=100", f"data.workers={workers}")
    whole, pieces = f"output.folder={tmp_path / 'whole'}", f"output.folder={tmp_path / 'pieces'}"
    assert train(*settings, whole).status == 0

    def stop(stage, crops):
        if stage.step == 3:
            for worker in multiprocessing.active_children():
                subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)
        return stop_at(3, number)(stage, crops)

    monkeypatch.setattr(StageRun, "train_step", stop)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = train(*settings, pieces)
    assert (done.status, done.err.splitlines()[-1]) == (128 + number, "stopped; the same command goes on from step 4")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert json.loads((tmp_path / "pieces" / "state" / "place.json").read_text()) == {"stage": 1, "step": 2}
    monkeypatch.undo()
    done = train(*settings, pieces)
    assert (done.status, "guided: step 2 of 4" in done.out) == (0, True)
    for name in ("stage-2-guided", "model"):
        expected = load_file(tmp_path / "whole" / f"{name}.safetensors")
        for key, tensor in load_file(tmp_path / "pieces" / f"{name}.safetensors").items():
            assert torch.equal(tensor, expected[key]), (name, key)


def test_a_second_signal_stops_at_once(recipe_file, data, tmp_path, monkeypatch):
    monkeypatch.setattr(StageRun, "train_step", lambda *_: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    done = train(recipe_file, data, "output.every=100", f"output.folder={tmp_path}")
    assert (done.status, "goes on from the last checkpoint" in done.err) == (130, True)
    assert not (tmp_path / "state").exists()


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_state_runs_no_code(recipe_file, data, tmp_path, monkeypatch):
    out, touched = tmp_path / "run", tmp_path / "touched"
    stages = 'stages=[{kind="flow-matching",steps=2}]'
    command = (recipe_file, data, stages, "output.every=1", f"output.folder={out}")
    monkeypatch.setattr(StageRun, "train_step", stop_at(0, signal.SIGTERM))
    assert train(*command).status == 143
    state = out / "state"
    assert not list(state.glob("custom_checkpoint_*"))
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin"):
        kept = (state / name).read_bytes() if (state / name).exists() else None
        torch.save({"watch": Trap(touched)}, state / name)
        assert "cannot be resumed from" in failure(*command)
        (state / name).unlink() if kept is None else (state / name).write_bytes(kept)
    torch.save({"step": Trap(touched)}, state / "random_states_0.pkl")
    assert train(*command).status == 0  # accelerate goes on without: every draw of a step has a seed of its own
    assert not touched.exists()


def test_the_adversarial_stage_makes_a_lora_of_the_model_it_started_from(recipe_file, data, tmp_path):
    stages = 'stages=[{kind="guided",steps=1},{kind="adversarial",steps=3}]'
    done = train(recipe_file, data, stages, ALL_STAGES[1], "optimizer.warmup=1", f"output.folder={tmp_path / 'run'}")
    assert done.status == 0, done.err
    path = tmp_path / "run" / "lora.safetensors"
    described = describe(path)
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert (described["kind"], described["ranks"], described["alpha"]) == ("lora", [2], "2")
    assert described["flowmapsr.base_hash"] == model.info["hash_sha256"]
    assert described["flowmapsr.base_flow_hash"] == model.info["flow_hash"]
    assert described["flowmapsr.base_title"] == "Tiny"
    assert json.loads(described["flowmapsr.base_network"])["type"] == "LocalNet"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert "score gap" in log[-1]
    image = torch.rand(1, 3, 8, 8)
    before = upscale(model, image, 2)
    merge_lora(model, path, 1.5)
    assert not torch.equal(upscale(model, image, 2), before)


def test_two_processes_and_accumulation_train_the_same_weights(recipe_file, data, tmp_path):
    # Adam divides by the size of the gradient: rounding shows in proportion to the rate
    settings = (data, *ALL_STAGES[:3], "adversarial.lr=1e-3", "optimizer.clip=1e9")
    one, parts, two = (tmp_path / name for name in ("one", "parts", "two"))
    done = train(recipe_file, *settings, f"output.folder={one}")
    assert (done.status, "processes: 1" in done.out) == (0, True), done.err
    assert train(recipe_file, *settings, f"output.folder={parts}", "optimizer.accumulate=2").status == 0
    command = partial(train_on_two, recipe_file, *settings, f"output.folder={two}", log=tmp_path / "log")
    statuses, said = command(sigterm=4)  # of one process, in the first step of the last stage
    assert (statuses, "the same command goes on from step 5" in said) == ([143, 143], True), said
    statuses, said = command()
    assert (statuses, "adversarial: step 1 of 4, " in said, "processes: 2" in said) == ([0, 0], True, True), said
    for file in ("model", "lora"):
        expected = load_file(one / f"{file}.safetensors")
        for run in (parts, two):
            for key, tensor in load_file(run / f"{file}.safetensors").items():
                assert torch.allclose(tensor, expected[key], atol=2e-5), (run, file, key)


def test_without_averaging_the_weights_themselves_are_exported(recipe_file, data, photos, tmp_path):
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:20000])
    done = train(recipe_file, data, "optimizer.ema=0", "optimizer.checkpoint_activations=true", "precision=bf16",
                 "optimizer.warmup=1", "data.workers=1", f"output.folder={tmp_path / 'run'}")  # fmt: skip
    assert done.status == 0, done.err
    assert "damaged photographs, passed over: " + str(photos / "cut.png") in done.out
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["damaged"] == 1
    files = ("stage-1-flow-matching.safetensors", "model.safetensors")
    first, last = (load_file(tmp_path / "run" / name) for name in files)
    assert first.keys() == last.keys()
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_stage_that_is_done_is_out_of_memory(recipe_file, data, tmp_path, monkeypatch):
    models, alive = [], []

    def build(*arguments):
        alive.extend(model() is not None for model in models)
        model, new = build_model(*arguments)
        models.append(weakref.ref(model.flow))
        return model, new

    monkeypatch.setattr("flowmapsr.trainer.run.loop.build_model", build)
    stages = 'stages=[{kind="flow-matching",steps=1},{kind="guided",steps=1},{kind="adversarial",steps=1}]'
    settings = (data, stages, "precision=bf16", "adversarial.rank=2", f"output.folder={tmp_path}")
    gc.disable()  # not by chance
    try:
        assert train(recipe_file, *settings).status == 0
    finally:
        gc.enable()
    assert alive == [False] * 3


def test_a_latent_model_trains_and_its_vae_does_not(recipe_file, data, tmp_path):
    vae = VAECodec(VAECodecConfig(block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=16))
    begin, out = tmp_path / "start.safetensors", tmp_path / "run"
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), vae), begin)
    text = recipe_file.read_text()
    recipe_file.write_text(text[: text.index("[model.network]")] + text[text.index("[[data.budgets]]") :])
    stages = 'stages=[{kind="flow-matching",steps=2},{kind="guided",steps=2,keep=0.1}]'
    command = (recipe_file, data, stages, f"start_from={begin}", "optimizer.warmup=1", f"output.folder={out}")
    assert train(*command).status == 0
    before, after = load_file(begin), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == name.startswith("codec."), name
    trained = sum(weight.numel() for name, weight in before.items() if not name.startswith("codec."))
    assert f"{trained:,} weights" in train(*command, options=["--dry-run"]).out
    network = '{type="UNet",widths=[8],depth=[1],heads=[1],groups=8,prompt_dim=4}'
    fresh = (f"model.network={network}", 'model.codec={type="VAECodec"}', f"output.folder={out}2")
    assert "set start_from to a checkpoint that has it" in failure(recipe_file, data, *fresh)


def test_licence_and_origin_outlive_training(recipe_file, tmp_path):
    start = tmp_path / "start.safetensors"
    model, _ = build_model(read_recipe(recipe_file, []))
    model.info = {"title": "LBM", "author": "Jane", "license": "cc-by-nc-4.0", "converted_from": "lbm.safetensors"}
    save_checkpoint(model, start)
    base = load_model(start).info
    stages = 'stages=[{kind="flow-matching",steps=1},{kind="guided",steps=1},{kind="adversarial",steps=1}]'
    overrides = [f"start_from={start}", f"output.folder={tmp_path}", stages, "adversarial.rank=1", "output.author=Joe"]
    recipe = read_recipe(recipe_file, overrides)
    for index, stage in enumerate(recipe.stages):
        model, _ = build_model(recipe, start_of(recipe, index))
        if stage.kind == "adversarial":
            add_lora(model.flow, 1, 1.0)
        for done in (False, True):
            export(model, recipe, index, 1, done)
    for file in ("model", "lora"):
        described = describe(tmp_path / f"{file}.safetensors")
        assert described["modelspec.license"] == "cc-by-nc-4.0"
        assert described["modelspec.author"] == "Joe"
        assert described["modelspec.converted_from"] == "lbm.safetensors"
        assert described["modelspec.derived_from"] == f"LBM, Jane, cc-by-nc-4.0, {base['hash_sha256']}"


def test_a_checkpoint_says_whether_guidance_was_learned(recipe_file, tmp_path):
    """In this run, or before it in the model that it starts from."""

    def learned_by(name, *overrides):
        out = tmp_path / name
        recipe = read_recipe(recipe_file, [f"output.folder={out}", *overrides])
        for index in range(len(recipe.stages)):
            export(build_model(recipe, start_of(recipe, index))[0], recipe, index, 1, True)
        infos = [load_model(stage_file(recipe, index)).info for index in range(len(recipe.stages))]
        return [learned_guidance(info["training"]) for info in infos]

    stages = 'stages=[{kind="flow-matching",steps=1},{kind="guided",steps=1}]'
    assert learned_by("seen", stages) == [False, True]
    assert learned_by("hidden", stages, "guidance.mode=hidden") == [False, False]
    for base, more in (("seen", [True, True]), ("hidden", [False, False])):
        again = f"start_from={tmp_path / base / 'model.safetensors'}"
        assert learned_by(f"more-{base}", stages, "guidance.mode=fixed", again) == more


def test_a_full_disk_leaves_the_last_good_checkpoint(recipe_file, data, tmp_path):
    pytest.importorskip("resource", reason="Windows cannot limit the size of files")
    out, first = f"output.folder={tmp_path / 'run'}", tmp_path / "run" / "stage-1-flow-matching.safetensors"
    process = start(recipe_file, data, out)
    while not first.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    kept, log = first.read_bytes(), tmp_path / "log"
    process = start(recipe_file, data, out, log=log, largest_file=4096)
    process.join()
    assert process.exitcode == 2
    assert "could not write to" in log.read_text().strip().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    assert first.read_bytes() == kept
    for write in (partial(torch.save, {"a": torch.zeros(3000)}), partial(save_file, {"a": torch.zeros(3000)})):
        with pytest.raises(UserError, match="could not write to"), written(tmp_path), small_files(4096):
            write(tmp_path / "large")
    assert train(recipe_file, data, out).status == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_names_what_saves_it(recipe_file, data, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(StageRun, "train_step", fail)
    message = failure(recipe_file, data, f"output.folder={tmp_path}")
    assert message.startswith("error: training ran out of memory (")
    assert "documentation" not in message
    assert all(key in message for key in ("optimizer.accumulate", "checkpoint_activations", "data.budgets"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'peft'", name="peft"), "needs peft; pip install 'flowmapsr[train]'"),
        (
            ImportError("DLL load failed while importing _C\nsee the log"),
            "cannot begin (DLL load failed while importing _C)",
        ),
        (ImportError(), "cannot begin (ImportError())"),
    ],
)
def test_what_cannot_be_imported_is_named(recipe_file, data, tmp_path, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr("flowmapsr.trainer.run.loop.train", fail)
    assert f"error: training {message}" in failure(recipe_file, data, f"output.folder={tmp_path}")


@pytest.mark.parametrize("where", ["loop.StageRun.train_step", "state.Ema.save"])
def test_other_errors_stay_what_they_are(recipe_file, data, tmp_path, monkeypatch, where):
    def fail(*_):
        raise RuntimeError("NCCL timed out")

    monkeypatch.setattr(f"flowmapsr.trainer.run.{where}", fail)
    with pytest.raises(RuntimeError, match="NCCL timed out"):
        train(recipe_file, data, "output.every=1", f"output.folder={tmp_path}")


def test_a_folder_belongs_to_one_recipe(recipe_file, data, tmp_path):
    out = f"output.folder={tmp_path / 'run'}"
    assert train(recipe_file, data, 'stages=[{kind="flow-matching",steps=1}]', out).status == 0
    done = train(recipe_file, data, 'stages=[{kind="flow-matching",steps=1}]', "optimizer.lr=1e-5", out)
    assert done.status == 2
    assert "another recipe: optimizer.lr is 0.0004 there, 1e-05 now" in done.err


def test_a_run_of_an_older_version_goes_on(recipe_file, tmp_path):
    claim = partial(read_recipe, recipe_file)
    claim_folder(claim([f"output.folder={tmp_path}"]))
    kept = json.loads((tmp_path / "recipe.json").read_text())
    assert "times.coarse" in kept
    del kept["times.coarse"]
    for stage in kept["stages"]:
        del stage["keep"]
    (tmp_path / "recipe.json").write_text(json.dumps(kept))
    claim_folder(claim([f"output.folder={tmp_path}"]))
    with pytest.raises(UserError, match=r"times.coarse is .* there, 7.0 now"):
        claim_folder(claim([f"output.folder={tmp_path}", "times.coarse=7"]))


@pytest.mark.parametrize("text", ['{"seed": 0, "stag', "", "[]", "{}", '{"seed": 0, "seed.more": 1}', '{"moon": 1}'])
def test_a_damaged_recipe_is_said(recipe_file, tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(UserError, match=r"recipe.json cannot be used \(.*delete that file"):
        claim_folder(read_recipe(recipe_file, [f"output.folder={tmp_path}"]))


def test_weights_are_shared_with_the_checkpoint_it_starts_from(recipe_file, data, tmp_path):
    out = tmp_path / "run"
    base = train(recipe_file, data, 'stages=[{kind="flow-matching",steps=2}]', f"output.folder={out}")
    assert base.status == 0, base.err
    start = f"start_from={out / 'model.safetensors'}"
    stage = 'stages=[{kind="guided",steps=2}]'
    more = train(recipe_file, data, stage, start, "model.network.decoder_blocks=[2]", f"output.folder={tmp_path / '2'}")
    assert more.status == 0, more.err
    line = next(line for line in more.out.splitlines() if line.startswith("new weights"))
    assert "network.decoder.0.1.conv1.weight" in line
    assert "network.decoder.0.0" not in line
    other = train(recipe_file, data, stage, start, "model.network.widths=[8,16]", f"output.folder={tmp_path / '3'}")
    assert other.status == 2
    assert "does not fit the recipe's model" in other.err
    assert "leave out the recipe's [model] section" in other.err


def test_a_stage_can_keep_of_what_it_started_from(recipe_file, data, tmp_path):
    stages = 'stages=[{{kind="flow-matching",steps=2}},{{kind="guided",steps=2,keep={}}}]'
    runs = {}
    for keep in (0.0, 0.25):
        out = tmp_path / str(keep)
        done = train(recipe_file, data, stages.format(keep), "optimizer.warmup=1", f"output.folder={out}")
        assert done.status == 0, done.err
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
def test_bad_input_is_said_in_one_line(recipe_file, data, tmp_path, override, message):
    (tmp_path / "empty").mkdir()
    override = override.format(nowhere=tmp_path / "nowhere", empty=tmp_path / "empty")
    settings = ("optimizer.warmup=0", "optimizer.clip=1e30", 'stages=[{kind="flow-matching",steps=9}]')
    settings = (data, *settings, f"output.folder={tmp_path / 'out'}", override)
    assert message in failure(recipe_file, *settings)


def test_what_blows_up_leaves_the_last_checkpoint(recipe_file, data, tmp_path, monkeypatch):
    settings = (data, 'stages=[{kind="flow-matching",steps=3}]', "output.every=1", f"output.folder={tmp_path / 'run'}")
    rate = ("optimizer.lr=1e30", "optimizer.warmup=0", "optimizer.clip=1e30", "optimizer.ema=0.9")
    assert "velocity loss is inf at step 2" in failure(recipe_file, *settings, *rate)
    assert json.loads((tmp_path / "run" / "state" / "place.json").read_text()) == {"stage": 0, "step": 1}
    assert (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    other = f"output.folder={tmp_path / 'other'}"
    assert "the gradient is nan at step 1; there was no" in failure(recipe_file, *settings, other)


def test_a_tracker_that_is_missing_or_does_not_start_is_said(recipe_file, data, tmp_path, monkeypatch):
    settings = (recipe_file, data, f"output.folder={tmp_path / 'run'}", "output.tracker=wandb")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    assert "wandb is not installed; pip install wandb" in failure(*settings)
    monkeypatch.undo()

    def fail(*_, **__):
        raise RuntimeError("no API key")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", fail)
    settings = (*settings, "output.tracker=tensorboard")
    assert "tensorboard did not start (no API key); set it up" in failure(*settings)


def test_figures_and_pictures_go_to_wandb(recipe_file, data, photos, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    settings = (data, f"data.validation={photos}", f"output.folder={out}", "output.tracker=wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = train(recipe_file, *settings)
    assert done.status == 0, done.err
    runs = list((out / "wandb").glob("offline-run-*"))
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1  # three stages, one run
    (picture,) = out.glob("wandb/offline-*/files/media/images/validation_6_*.png")
    assert Image.open(picture).tobytes() == Image.open(out / "validation-000006.png").tobytes()


def test_an_error_ends_with_status_2_and_no_traceback(recipe_file, data):
    command = [sys.executable, "-m", "flowmapsr.trainer", *arguments(recipe_file, data, "optimizer.lr=fast")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "optimizer.lr must be a number" in done.stderr
