"""An upscaler as a teacher: its pictures as targets, asked for at every step or made before."""

import copy
import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.methods import FlowMapMethod
from flowmapsr.flowmapsr_core.upscaling.community import CommunityUpscaler
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost
from flowmapsr.trainer import teach
from flowmapsr.trainer.data.pairs import Small, make_pairs
from flowmapsr.trainer.data.teacher import Teacher, Upscaler
from flowmapsr.trainer.objectives import JUMPS
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.batch import draw, generator_of, make_batch, pair_generators
from flowmapsr.trainer.run.learner import AdversarialLearner
from flowmapsr.trainer.run.teaching import Cache
from gaussian_flow import GaussianFlow, column
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel import ImageModelDescriptor, ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from trainer_process import failure, start, train, train_on_two

CPU = torch.device("cpu")
pickles = pytest.mark.skipif(torch.__version__ < (2, 6), reason="torch loads no pickled weights safely yet")
STRAIGHT = (
    'stages=[{kind="flow-matching",steps=2},{kind="guided",steps=5,objective="straight"}]',
    "teacher.of=jumps",
    "teacher.steps=3",
    "output.every=1",
)


def make_upscaler(path, scale=4, channels=3):
    """A tiny upscaler in a file, with weights that change much."""
    torch.manual_seed(scale)
    network = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=4, num_conv=1, upscale=scale)
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def upscaler(tmp_path):
    return make_upscaler(tmp_path / "x4.safetensors")


@pytest.fixture
def taught(recipe_file, photos, upscaler):
    """What begins every command: the recipe, its photographs and its teacher."""
    return recipe_file, f"data.photos={photos}", f"teacher.upscaler={upscaler}"


def teacher_of(path):
    return Upscaler(Teacher(str(path)), CPU)


def eight_bit(image):
    return (image.clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("name", ["straight", "shortcut", "lagrangian", "eulerian"])
def test_where_pairs_are_deterministic_the_velocity_of_the_pair_is_every_target(name, generator):
    """x0 = a + b x1: the flow takes straight lines, u(x, t, s) is the velocity of the line through x at t."""
    x1 = torch.randn(64, 1, 2, 3, generator=generator, dtype=torch.float64)
    times = torch.rand(64, 2, generator=generator, dtype=torch.float64)
    t, s = times.amax(dim=1), times.amin(dim=1)
    flow, one = GaussianFlow(), torch.ones_like(t)
    x0 = flow.map(x1, one, 0 * one)
    x_t, v = torch.lerp(x0, x1, column(t)), x1 - x0
    a, b = flow.mean0 - flow.mean1 * flow.std0 / flow.std1, flow.std0 / flow.std1

    def u(x, t, s):
        start = (x - (1 - column(t)) * a) / ((1 - column(t)) * b + column(t))
        return start - (a + b * start)

    assert (JUMPS[name](u, x_t, v, t, s) - v).abs().max() < 1e-10
    assert (JUMPS[name](u, x_t, v, t, s) - flow.u(x_t, t, s)).abs().max() > 0.1  # the data's own flow bends


@pytest.mark.parametrize("preset", ["bicubic", "flowmapsr", "real-esrgan"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_target_is_the_teachers_picture_of_the_lr_image(
    recipe_file, upscaler, small_model, preset, factor, monkeypatch
):
    monkeypatch.setattr(TorchHost, "compute_dtype", lambda host, supported: torch.float32)  # as the network below
    settings = (
        f"teacher.upscaler={upscaler}",
        f"degrade.factor=[{factor},{factor}]",
        f"degrade.presets={{{preset}=1}}",
    )
    recipe = read_recipe(recipe_file, [*settings, "degrade.groups=2"])
    hr = torch.rand(4, 3, 64, 64, generator=generator_of(1))
    draws = draw(recipe, recipe.stages[2], 4, generator_of(2))
    draws.negative = torch.tensor([False, False, True, False])
    batches = [
        make_batch(hr, draws, recipe, small_model, pair_generators(recipe, 3, range(2)), pictures)
        for pictures in (None, teacher_of(upscaler).of_groups)
    ]
    *_, small = make_pairs(hr, recipe.degrade, draws.negative, pair_generators(recipe, 3, range(2)))
    lr, network = torch.cat([group.images for group in small]), ModelLoader().load_from_file(upscaler).model.eval()
    with torch.no_grad():
        picture = network(lr).clamp(0, 1)
        picture = network(picture).clamp(0, 1) if factor == 8 else picture
    expected = small_model.codec.encode(eight_bit(resize(picture, (64, 64))))
    difference = (batches[1].x0 - expected)[~draws.negative].abs() / 2  # latents of pixels are in [-1, 1]
    assert difference.max() < 1.5 / 255  # a value may round the other way
    assert difference.mean() < 1e-4
    assert torch.equal(batches[1].x0[2], batches[0].x0[2])
    assert not torch.equal(batches[1].x0[0], batches[0].x0[0])
    assert torch.equal(batches[1].x1, batches[0].x1)
    assert not batches[1].x0.requires_grad
    assert torch.equal(batches[1].hr, batches[0].hr)  # what looks at pictures goes on with the photographs
    assert torch.equal(batches[1].real, batches[0].x0)


def test_a_preset_may_have_a_teacher_of_its_own(recipe_file, upscaler, small_model, tmp_path):
    other = make_upscaler(tmp_path / "x2.safetensors", 2)
    recipe = read_recipe(
        recipe_file,
        [f"teacher.upscaler={upscaler}", f'teacher.by_preset={{camera="{other}"}}', "degrade.groups=4",
         "degrade.presets={camera=1,bicubic=1}"],
    )  # fmt: skip
    hr, nobody = torch.rand(4, 3, 32, 32, generator=generator_of(1)), torch.zeros(4, dtype=torch.bool)
    *_, groups = make_pairs(hr, recipe.degrade, nobody, pair_generators(recipe, 3, range(4)))
    assert {group.preset for group in groups} == {"camera", "bicubic"}
    pictures = Upscaler(recipe.teacher, CPU).of_groups(groups, ~nobody, (32, 32))
    for picture, group in zip(pictures, groups, strict=True):
        teacher = other if group.preset == "camera" else upscaler
        assert torch.equal(picture[None], teacher_of(teacher)(group, (32, 32)))


def test_of_jumps_flow_matching_keeps_hr(recipe_file, upscaler, small_model):
    stages = 'stages=[{kind="guided",steps=1,objective="straight"}]'
    recipe = read_recipe(recipe_file, [f"teacher.upscaler={upscaler}", "teacher.of=jumps", stages])
    hr = torch.rand(4, 3, 64, 64, generator=generator_of(1))
    draws = draw(recipe, recipe.stages[0], 4, generator_of(2))
    draws.negative = torch.tensor([False, True, False, False])
    assert draws.jump.tolist() == [False, True, False, True]
    pictures = teacher_of(upscaler).of_groups
    batch = make_batch(hr, draws, recipe, small_model, pair_generators(recipe, 0, range(4)), pictures)
    plain = make_batch(hr, draws, recipe, small_model, pair_generators(recipe, 0, range(4)))
    same = [torch.equal(*latents) for latents in zip(batch.x0, plain.x0, strict=True)]
    assert same == [True, True, True, False]
    assert torch.equal(batch.real, plain.x0)
    assert torch.equal(batch.hr[::2], hr[::2])


def test_distances_of_pictures_are_to_the_teachers_where_the_recipe_says_so(recipe_file, upscaler, small_model):
    stages = 'stages=[{kind="guided",steps=1,objective="straight"}]'
    settings = [f"teacher.upscaler={upscaler}", "teacher.of=jumps", "teacher.distances=picture", stages]
    recipe = read_recipe(recipe_file, settings)
    hr = torch.rand(4, 3, 64, 64, generator=generator_of(1))
    draws = draw(recipe, recipe.stages[0], 4, generator_of(2))
    draws.s = torch.where(draws.jump, 0.0, draws.s)
    draws.negative = torch.tensor([False, True, False, False])
    pictures = teacher_of(upscaler).of_groups
    batch = make_batch(hr, draws, recipe, small_model, pair_generators(recipe, 0, range(4)), pictures)
    plain = make_batch(hr, draws, recipe, small_model, pair_generators(recipe, 0, range(4)))
    assert draws.jump.tolist() == [False, True, False, True]
    assert [torch.equal(*images) for images in zip(batch.hr, plain.hr, strict=True)] == [True, True, True, False]
    assert (small_model.codec.encode(batch.hr) - batch.x0).abs().max() < 1e-6
    assert torch.equal(batch.real, plain.real)  # what discriminators take for real


def test_a_discriminator_of_pictures_sees_taught_samples_alone(recipe_file, upscaler, small_model):
    """Real is the teacher's picture, whatever s the jump ends at; what is generated is the jump to time 0."""
    stages = 'stages=[{kind="guided",steps=1},{kind="adversarial",steps=1,objective="straight"}]'
    settings = [f"teacher.upscaler={upscaler}", "teacher.of=jumps", stages, "adversarial={evaluations=1,warmup=0}"]
    hr = torch.rand(4, 3, 64, 64, generator=generator_of(1))
    pairs = []
    for judged in ("hr", "picture"):
        recipe = read_recipe(recipe_file, [*settings, f"teacher.judged={judged}"])
        draws = draw(recipe, recipe.stages[1], 4, generator_of(2))
        draws.s, draws.negative = torch.where(draws.jump, 0.5, draws.s), torch.zeros(4, dtype=torch.bool)
        generators = pair_generators(recipe, 0, range(4))
        batch = make_batch(hr, draws, recipe, small_model, generators, teacher_of(upscaler).of_groups)
        learner = AdversarialLearner(recipe, recipe.stages[1], copy.deepcopy(small_model), Accelerator(cpu=True))
        with torch.no_grad():
            pairs.append(learner.shown(batch))
    (photographs, generated), (pictures, seen) = pairs
    assert draws.jump.tolist() == [False, True, False, True]
    assert torch.equal(photographs, small_model.codec.encode(hr))
    assert (2 * batch.x0[draws.jump] - photographs[draws.jump] - pictures).abs().max() < 1e-5  # x0 is half of each
    assert torch.equal(batch.hr, hr)
    assert torch.allclose(seen, generated[draws.jump], atol=1e-6)
    assert learner.judges(1)
    assert learner.loss(batch, 1)[1]["discriminator"] > 0


def test_a_jump_to_s_learns_s_of_hr_and_the_rest_of_the_picture(recipe_file, upscaler, small_model):
    stages = 'stages=[{kind="self-distillation",steps=1,objective="straight"}]'
    recipe = read_recipe(recipe_file, [f"teacher.upscaler={upscaler}", "teacher.of=jumps", "times.jumps=1", stages])
    hr = torch.rand(4, 3, 64, 64, generator=generator_of(1))
    draws = draw(recipe, recipe.stages[0], 4, generator_of(2))
    ends = []
    for s in (torch.zeros(4), torch.tensor([0.0, 0.25, 0.5, 0.75])):
        draws.t, draws.s = torch.ones(4), s
        generators = pair_generators(recipe, 0, range(4))
        ends.append(make_batch(hr, draws, recipe, small_model, generators, teacher_of(upscaler).of_groups))
    picture, batch = ends[0].x0, ends[1]
    assert (picture - batch.real).abs().mean() > 0.01
    for sample, share in enumerate(draws.s.tolist()):
        expected = (1 - share) * picture[sample] + share * batch.real[sample]
        assert (batch.x0[sample] - expected).abs().max() < 1e-6


def test_both_ends_of_the_dial_and_nothing_else_are_a_matter_of_times(recipe_file):
    """Half of the samples are at s = t = 1, HR's posterior mean, and half are the jump to the teacher's picture."""
    stages = 'stages=[{kind="self-distillation",steps=1,objective="straight"}]'
    times = "times={levels=1, start=1, jumps=0.5}"
    recipe = read_recipe(recipe_file, ["teacher.upscaler=a", "teacher.of=jumps", stages, times])
    draws = draw(recipe, recipe.stages[0], 400, generator_of(0))
    assert torch.equal(draws.t, torch.ones(400))
    assert torch.equal(draws.s, (~draws.jump).float())
    assert draws.jump.sum() == 200


@pytest.mark.parametrize(
    ("scale", "factor", "inputs"),
    [(4, 5, [13, 32]), (4, 4, [16]), (2, 8, [8, 16, 32]), (2, 1.5, [43]), (3, 9, [7, 21, 43])],
)
def test_it_enlarges_again_until_it_is_enough_and_from_no_more_than_that_takes(tmp_path, scale, factor, inputs):
    upscaler = CommunityUpscaler(make_upscaler(tmp_path / "model.safetensors", scale), CPU)
    seen = []
    upscaler.model.model.register_forward_pre_hook(lambda _, images: seen.append(images[0].shape[-1]))
    side = round(64 / factor)
    assert upscaler(torch.rand(1, 3, side, side), (64, 64)).shape == (1, 3, 64, 64)
    assert seen == inputs


def test_a_picture_depends_on_its_image_alone_and_has_8_bits(tmp_path):
    torch.manual_seed(0)
    save_file(ESRGAN(num_filters=4, num_blocks=1, scale=4).state_dict(), tmp_path / "model.safetensors")
    upscaler, images = CommunityUpscaler(tmp_path / "model.safetensors", CPU), torch.rand(3, 3, 9, 11)
    pictures = upscaler(images, (33, 41))
    assert torch.equal(pictures, torch.cat([upscaler(image[None], (33, 41)) for image in images]))
    assert torch.equal(pictures, eight_bit(pictures))


def test_a_model_of_ours_teaches_what_it_paints_at_vivid(small_model, taught, tmp_path, monkeypatch):
    monkeypatch.setattr(TorchHost, "compute_dtype", lambda host, supported: torch.float32)
    save_checkpoint(small_model, tmp_path / "own.safetensors")
    lr = torch.rand(2, 3, 9, 11)
    pictures = teacher_of(tmp_path / "own.safetensors")(Small("bicubic", lr), (36, 44))
    assert torch.equal(pictures, eight_bit(upscale(small_model, lr, 4.0, look="vivid")))
    assert not torch.equal(pictures, eight_bit(upscale(small_model, lr, 4.0, look="balanced")))
    settings = (*taught[:2], "teacher.upscaler=mini", f"output.folder={tmp_path / 'run'}")
    assert train(*settings, 'stages=[{kind="flow-matching",steps=1}]').status == 0


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pickles
def test_a_pth_holds_weights_and_nothing_else(taught, upscaler, tmp_path):
    torch.save({"params_ema": load_file(upscaler)}, tmp_path / "x4.pth")
    lr = torch.rand(1, 3, 9, 11)
    one, other = (teacher_of(path)(Small("bicubic", lr), (36, 44)) for path in (upscaler, tmp_path / "x4.pth"))
    assert torch.equal(one, other)
    torch.save({"params_ema": Trap(tmp_path / "touched")}, tmp_path / "trap.pth")
    trap = f"teacher.upscaler={tmp_path / 'trap.pth'}"
    assert "holds more than weights" in failure(*taught[:2], trap, f"output.folder={tmp_path / 'run'}")
    assert not (tmp_path / "touched").exists()


def test_a_teacher_is_not_trained(taught, tmp_path, monkeypatch):
    upscalers = []

    def keep(upscaler, *arguments):
        upscalers.append(upscaler)
        load(upscaler, *arguments)

    load = Upscaler.__init__
    monkeypatch.setattr(Upscaler, "__init__", keep)
    done = train(*taught, 'stages=[{kind="flow-matching",steps=2}]', f"output.folder={tmp_path / 'run'}")
    assert done.status == 0, done.err
    (upscaler,) = upscalers
    network = upscaler.paint.model.model
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, load_file(tmp_path / "x4.safetensors")[name])
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())


def test_what_is_no_teacher_is_said_in_one_line(taught, tmp_path, monkeypatch):
    make_upscaler(tmp_path / "gray.safetensors", channels=1)
    make_upscaler(tmp_path / "restores.safetensors", scale=1)
    save_file({"moon": torch.zeros(3)}, tmp_path / "moon.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x4.safetensors").read_bytes()[:-9])
    for file, message in (
        ("gray.safetensors", "holds a RealESRGAN Compact from 1 to 1 channels; give one from RGB to RGB"),
        ("restores.safetensors", "that does not enlarge photographs"),
        ("moon.safetensors", "spandrel knows no upscaler like"),
        ("cut.safetensors", "is truncated or damaged"),
        ("nowhere.safetensors", "no such file"),
    ):
        settings = (*taught[:2], f"teacher.upscaler={tmp_path / file}", f"output.folder={tmp_path / 'runs' / file}")
        assert message in failure(*settings)
        assert message in failure(*settings, f"teacher.cache={tmp_path / 'cache'}", command=teach.main)
    assert not (tmp_path / "cache").exists()

    def fail(*_):
        raise RuntimeError("windows of 64\nsee the paper")

    monkeypatch.setattr(ImageModelDescriptor, "__call__", fail)
    message = failure(*taught, f"output.folder={tmp_path / 'run'}")
    assert message.endswith("that cannot enlarge a picture of 9x7 pixels (windows of 64); give another")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['stages=[{kind="guided",steps=1,objective="straight"}]'], r"objective .straight. needs a \[teacher\]"),
        (["teacher.of=some", "teacher.upscaler=a"], "teacher.of: 'some' is none of all, jumps"),
        (["teacher.of=jumps", "teacher.upscaler=a"], "give a stage objective = .straight."),
        ([*STRAIGHT, "teacher.upscaler=a", "times.jumps=0"], "and times.jumps above 0"),
        (["teacher.upscaler=a", 'teacher.by_preset={fog="b"}'], "teacher.by_preset: 'fog' is none of"),
        (['teacher.by_preset={camera="b"}'], "teacher.upscaler must name"),
        (["teacher.cache=folder"], "teacher.upscaler must name"), (["teacher.steps=-1"], "teacher.steps"),
    ],
)  # fmt: skip
def test_bad_recipes_name_the_key(recipe_file, overrides, message):
    with pytest.raises(UserError, match=message):
        read_recipe(recipe_file, overrides)


def test_pairs_come_again_where_there_is_a_teacher_and_their_noise_does_not(recipe_file, small_model):
    recipe = read_recipe(recipe_file, [*STRAIGHT, "teacher.upscaler=a"])
    assert recipe.pair_steps(0) == [0, 1]  # a stage without jumps has no use for a teacher of jumps
    assert recipe.pair_steps(1) == [2, 0, 1, 2, 0]
    every = read_recipe(recipe_file, ["teacher.upscaler=a", "teacher.steps=4"])
    assert [every.pair_steps(index) for index in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert read_recipe(recipe_file, []).pair_steps(2) == [4, 5]
    hr, batches = torch.rand(4, 3, 64, 64), {}
    for noise in (0.0, 0.5):
        small_model.flow.method = FlowMapMethod(noise=noise)
        for step in (2, 5):
            draws = draw(recipe, recipe.stages[1], 4, generator_of(0, step))
            pairs = pair_generators(recipe, 2, range(4))
            batches[noise, step] = make_batch(hr, draws, recipe, small_model, pairs)
    assert torch.equal(batches[0.0, 2].x1, batches[0.0, 5].x1)
    one, other = (batches[0.5, step].x1 - batches[0.0, step].x1 for step in (2, 5))
    assert one.std() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_killed_at_any_moment_it_ends_with_the_same_weights(taught, tmp_path):
    """Whether the teacher is asked at every step, or its pictures were made before."""
    whole, cache = tmp_path / "whole", f"teacher.cache={tmp_path / 'cache'}"
    done = train(*taught, *STRAIGHT, f"output.folder={whole}")
    assert done.status == 0, done.err
    assert load_model(whole / "model.safetensors").info["training"]["teacher"] == "x4.safetensors"
    assert train(*taught, *STRAIGHT, cache, command=teach.main).status == 0
    ends = []
    for name, more in (("online", ()), ("cached", (cache,))):
        pieces = tmp_path / name
        settings = (*taught, *STRAIGHT, *more, f"output.folder={pieces}")
        process = start(*settings)
        while process.is_alive() and not len(load_steps(pieces)) >= 4:
            time.sleep(0.005)
        time.sleep(random.Random(name).uniform(0, 0.1))
        process.kill()
        process.join()
        ends.append(process.exitcode)
        done = train(*settings)
        assert done.status == 0, done.err
        assert load_steps(pieces) == list(range(1, 8))
        for file in ("stage-1-flow-matching", "stage-2-guided", "model"):
            expected, found = (load_file(run / f"{file}.safetensors") for run in (whole, pieces))
            assert expected.keys() == found.keys()
            for key, tensor in expected.items():
                assert torch.equal(tensor, found[key]), (name, file, key)
    assert -signal.SIGKILL in ends


def load_steps(run):
    """The steps in a run's log."""
    log = run / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("of", ["all", "jumps"])
def test_a_run_with_a_cache_asks_the_teacher_nothing(taught, tmp_path, monkeypatch, of):
    settings = (*taught, *STRAIGHT, f"teacher.of={of}")
    asked = []
    ask = Upscaler.__call__
    monkeypatch.setattr(
        Upscaler, "__call__", lambda upscaler, lr, size: asked.append(len(lr.images)) or ask(upscaler, lr, size)
    )
    online, cached = (f"output.folder={tmp_path / name}" for name in ("online", "cached"))
    assert train(*settings, online).status == 0
    assert asked
    asked.clear()
    cache = tmp_path / "cache"
    settings = (*settings, f"teacher.cache={cache}")
    assert train(*settings, command=teach.main).out.strip() == str(cache)
    assert sum(asked) == 3 * (4 if of == "all" else 2)
    assert Image.open(cache / "000001.png").size == (64, 64 * (4 if of == "all" else 2))
    asked.clear()
    assert train(*settings, cached, "optimizer.accumulate=2", "data.workers=1").status == 0
    assert asked == []
    # of two parts of a batch the gradients are the same but for rounding
    expected = load_file(tmp_path / "online" / "model.safetensors")
    for key, tensor in load_file(tmp_path / "cached" / "model.safetensors").items():
        assert torch.allclose(tensor, expected[key], atol=2e-5), key


def test_teaching_goes_on_where_it_stopped_and_processes_share_it(taught, tmp_path, monkeypatch):
    settings = (*taught, "teacher.steps=6", 'stages=[{kind="flow-matching",steps=9}]')
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train(*settings, f"teacher.cache={whole}", command=teach.main).status == 0
    write = Cache.write

    def stop(cache, step, pictures):
        if step == 2:
            raise KeyboardInterrupt
        write(cache, step, pictures)

    monkeypatch.setattr(Cache, "write", stop)
    settings = (*settings, f"teacher.cache={pieces}")
    done = train(*settings, command=teach.main)
    assert (done.status, done.err.splitlines()[-1]) == (
        130, "stopped; the same command goes on with the pictures that are left"
    )  # fmt: skip
    monkeypatch.undo()
    assert "holds the pictures of 2 of 6 steps" in failure(*settings, f"output.folder={tmp_path / 'run'}")
    (pieces / ".000002.png.1.partial").write_bytes((whole / "000002.png").read_bytes()[:99])
    made = (pieces / "000001.png").stat().st_mtime_ns
    statuses, said = train_on_two(*settings, log=tmp_path / "log", command=teach.main)
    assert statuses == [0, 0], said
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {path.name: path.read_bytes() for path in pieces.iterdir()} == files
    assert sorted(files) == [*(f"{step:06d}.png" for step in range(6)), "made-of.json"]
    assert (pieces / "000001.png").stat().st_mtime_ns == made


def test_killed_while_it_makes_pictures_it_leaves_whole_ones(taught, tmp_path):
    cache = tmp_path / "cache"
    settings = (*taught, f"teacher.cache={cache}", 'stages=[{kind="flow-matching",steps=400}]')
    process = start(*settings, command=teach.main)
    while process.is_alive() and len(list(cache.glob("*.png"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for path in cache.glob("*.png"):
        assert Image.open(path).convert("RGB").size == (64, 256)


def test_what_a_later_stage_lacks_is_said_before_the_first(taught, tmp_path):
    settings = (*taught, *STRAIGHT, f"output.folder={tmp_path / 'run'}", f"teacher.cache={tmp_path / 'cache'}")
    assert "cache holds the pictures of 0 of 3 steps" in failure(*settings)
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize("command", [{}, {"command": teach.main}], ids=["train", "teach"])
def test_a_cache_of_something_else_is_refused(taught, photos, tmp_path, command):
    stages = ('stages=[{kind="flow-matching",steps=2}]', f"teacher.cache={tmp_path / 'cache'}")
    assert train(*taught, *stages, command=teach.main).status == 0
    make_upscaler(tmp_path / "x2.safetensors", scale=2)
    for change, message in (
        ("degrade.factor=[2,3]", "degrade.factor is [2.0, 4.0] there, [2.0, 3.0] now"),
        (f"teacher.upscaler={tmp_path / 'x2.safetensors'}", "teacher.upscaler is "),
        (f'teacher.by_preset={{bicubic="{tmp_path / "x2.safetensors"}"}}', "teacher.by_preset is None there"),
        ("data.budgets=[{side=80,batch=4}]", "data.budgets is [[64, 4]] there, [[80, 4]] now"),
        ("seed=7", "seed is 0 there, 7 now"),
    ):
        said = failure(*taught, *stages, change, f"output.folder={tmp_path / 'runs' / change[:9]}", **command)
        assert f"holds pictures of another recipe: {message}" in said
        assert said.endswith("give another folder, or delete that one")
    settings = (*taught, *stages, f"output.folder={tmp_path / 'run'}")
    (tmp_path / "cache" / "000000.png").write_bytes(b"no picture")
    if not command:
        assert "000000.png cannot be read" in failure(*settings)
    (photos / "0.png").rename(photos / "9.png")
    assert "data.photos is " in failure(*settings, **command)
