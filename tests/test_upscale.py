import weakref

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.images.batch import batch_of
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.looks import Look, learned_guidance, looks_with
from flowmapsr.flowmapsr_core.model import Model
from flowmapsr.flowmapsr_core.upscaling.pipeline import upscale_latent
from flowmapsr.flowmapsr_core.upscaling.settings import warn_of_unlearned


@pytest.mark.parametrize("scale", [1, 1.37, 2, 3.5, 8])
def test_output_size_is_exact_for_any_scale(small_model, photo, scale):
    image = photo[..., :23, :17]
    result = upscale(small_model, image, scale)
    assert result.shape == (1, 3, round(scale * 23), round(scale * 17))
    assert result.min() >= 0
    assert result.max() <= 1


def test_the_input_is_left_alone(small_model, photo):
    image = photo * 1.2 - 0.1
    before = image.clone()
    upscale(small_model, image, 1)
    assert torch.equal(image, before)


def test_an_exact_size_can_be_asked_for(small_model, photo):
    assert upscale(small_model, photo, size=(127, 301)).shape[-2:] == (127, 301)


def test_any_tile_gives_the_untiled_picture_on_a_ragged_size():
    """The built-in model, in float32, on 1220x808."""
    model = load_model("built-in")
    image = torch.nn.functional.interpolate(
        torch.rand(1, 3, 85, 64, generator=torch.Generator().manual_seed(0)), (202, 305), mode="bilinear"
    )
    part = image[..., :85, :127]
    whole = upscale(model, part, 4, 1, tile=0)
    for tile in (64, 100, 333, 512):
        assert (upscale(model, part, 4, 1, tile=tile) - whole).abs().max() < 1e-4
    large = upscale(model, image, 4, 1, tile=0)
    assert large.shape == (1, 3, 808, 1220)
    assert (upscale(model, image, 4, 1, tile=700) - large).abs().max() < 1e-4


def test_a_batch_is_every_image(small_model, photo):
    batch = torch.cat([photo, photo.flip(3), 1 - photo])
    together = upscale(small_model, batch, 2)
    for index in range(3):
        assert torch.allclose(together[index : index + 1], upscale(small_model, batch[index : index + 1], 2), atol=1e-5)


def test_looks_differ_and_single_settings_override_them(small_model, photo):
    results = {look: upscale(small_model, photo, 2, look=look) for look in ("faithful", "balanced", "vivid")}
    assert not torch.equal(results["faithful"], results["balanced"])
    assert not torch.equal(results["vivid"], results["balanced"])
    assert torch.equal(upscale(small_model, photo, 2, 4, 3.0), upscale(small_model, photo, 2, look="vivid"))
    # the posterior mean stays one, in one evaluation
    assert torch.equal(upscale(small_model, photo, 2, 4, look="faithful"), results["faithful"])


def test_progress_counts_tiles_and_shows_a_picture(small_model, photo):
    seen = []
    upscale(
        small_model, photo, 2, 2, tile=64, progress=lambda done, total, preview: seen.append((done, total, preview()))
    )
    tiles = 2 * 2  # what each may read, 64 px and 72 more on each side, nearly is the whole picture
    assert [entry[:2] for entry in seen] == [(k, 2 * tiles) for k in range(1, 2 * tiles + 1)]
    assert all(preview.shape == (1, 3, 92, 124) for *_, preview in seen)
    assert all(preview.min() >= 0 and preview.max() <= 1 for *_, preview in seen)


def test_raising_from_progress_cancels(small_model, photo):
    calls = []

    def cancel(done, total, preview):
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(small_model, photo, 4, 4, tile=64, progress=cancel)
    assert calls == [1]


STAGES = [{"kind": "flow-matching"}, {"kind": "guided"}]


def test_a_checkpoint_may_have_looks_of_its_own(small_model, photo, tmp_path):
    """One that was trained for a single evaluation says so; the others stay as they are."""
    own = {"balanced": {"steps": 1, "guidance": 1.0}, "vivid": {"realism": 0.5}}
    model = Model.from_config({**small_model.config(), "looks": own})
    model.take(small_model.tensors())
    save_checkpoint(model, tmp_path / "model.safetensors")
    assert describe(tmp_path / "model.safetensors")["config"]["looks"] == {
        "balanced": {"steps": 1, "guidance": 1.0},
        "vivid": {"realism": 0.5},
    }
    assert "looks" not in small_model.config()
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(upscale(again, photo, 2), upscale(again, photo, 2, steps=1, guidance=1.0))
    assert torch.allclose(*(upscale(each, photo, 2, look="faithful") for each in (again, small_model)), atol=1e-5)
    vivid = upscale(again, photo, 2, 4, 3.0, realism=0.5)
    assert torch.equal(upscale(again, photo, 2, look="vivid"), vivid)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"wild": {"steps": 1}}, r"looks\.wild: there is none but faithful, balanced, vivid"),
        ({"vivid": {"step": 1}}, r"unknown key looks\.vivid\.step"),
    ],
)
def test_wrong_looks_are_named(small_model, section, message):
    with pytest.raises(ValueError, match=message):
        Model.from_config({**small_model.config(), "looks": section})


@pytest.mark.parametrize(
    ("training", "learned"),
    [
        ({"guidance": "input", "stages": STAGES}, True),
        ({"guidance": "input", "stages": STAGES[:1]}, False),
        ({"guidance": "hidden", "stages": STAGES}, False),
        ({"guidance": "fixed", "stages": STAGES}, False),
        ({"guidance": "fixed", "stages": STAGES, "learned_guidance": True}, True),
        ({"steps": 3}, None), ("odd", None), (None, None), ({"guidance": "input", "stages": ["odd"]}, False),
    ],
)  # fmt: skip
def test_a_model_that_has_seen_no_guidance_is_evaluated_at_1(small_model, photo, caplog, training, learned):
    assert learned_guidance(training) is learned
    one, two = (upscale(small_model, photo, 1, guidance=scale) for scale in (1.0, 2.0))
    assert not torch.equal(one, two)
    small_model.info["training"] = training
    expected = one if learned is False else two
    assert torch.equal(upscale(small_model, photo, 1), expected)
    assert torch.equal(upscale(small_model, photo, 1, guidance=2.0), expected)
    latents = [upscale_latent(small_model, photo, Look(2, scale, 0)) for scale in (1.0, 2.0)]
    assert torch.equal(*latents) == (learned is False)
    warn_of_unlearned(small_model, Look(2, 1.0, 0))
    assert not caplog.text
    warn_of_unlearned(small_model, Look(2, 2.5, 0))
    assert ("evaluated at 1, not at 2.5" in caplog.text) == (learned is False)


@pytest.mark.parametrize("arguments", [{"scale": 2.0}, {"size": (250, 150)}])
def test_less_than_the_least_factor_is_painted_at_it_and_shrunk(small_model, photo, arguments):
    photo, mask = photo[..., :60, :80], torch.linspace(0, 1, 80).expand(1, 1, 60, 80)
    size = arguments.get("size", (120, 160))
    if "size" in arguments:  # taller than the least factor makes it, and narrower
        photo, mask = photo.mT[..., :60], mask.mT[..., :60]
    direct = upscale(small_model, photo, **arguments, look="vivid", realism_mask=mask)
    small_model.least_factor = 3.0
    painted = (max(size[0], 3 * photo.shape[-2]), max(size[1], 3 * photo.shape[-1]))
    large = upscale(small_model, photo, size=painted, look="vivid", realism_mask=mask)
    found = upscale(small_model, photo, **arguments, look="vivid", realism_mask=mask)
    assert torch.equal(found, resize(large, size).clamp(0, 1))
    assert found.shape == direct.shape == (1, 3, *size)
    assert not torch.equal(found, direct)
    assert Model.from_config(small_model.config()).least_factor == 3
    with pytest.raises(ValueError, match=r"least_factor is 0\.5, and must be 1 or more"):
        Model.from_config(small_model.config() | {"least_factor": 0.5})


def test_a_model_whose_looks_take_one_evaluation_takes_no_more(small_model, photo, caplog):
    one = upscale(small_model, photo, 1, 1, 2.0)
    assert not torch.equal(upscale(small_model, photo, 1, 4, 2.0), one)
    small_model.looks = looks_with({"balanced": {"steps": 1}, "vivid": {"steps": 1}})
    assert torch.equal(upscale(small_model, photo, 1, 4, 2.0), one)
    warn_of_unlearned(small_model, Look(1, 2.0, 0))
    assert not caplog.text
    warn_of_unlearned(small_model, Look(4, 2.0, 0))
    assert "evaluated once, not 4 times" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.5}, "from 1 to 8"), ({"scale": 9}, "from 1 to 8"), ({"scale": float("nan")}, "from 1 to 8"),
        ({"steps": 3}, "power of two"), ({"guidance": 0.5}, "from 1"), ({"look": "wild"}, "balanced"),
        ({"color": "x"}, "lr-residual"), ({"size": (10, 2000)}, "choose a size"), ({"tile": -1}, "tile is -1"),
    ],
)  # fmt: skip
def test_arguments_out_of_range(small_model, photo, arguments, message):
    with pytest.raises(UserError, match=message):
        upscale(small_model, photo, **arguments)


def test_images_that_cannot_be_upscaled(small_model):
    with pytest.raises(UserError, match="1x1"):
        upscale(small_model, torch.rand(1, 3, 1, 1))
    with pytest.raises(UserError, match="shape"):
        upscale(small_model, torch.rand(1, 8, 8, 3))


def test_a_batch_is_made_in_memory_for_itself_and_one_image():
    made, alive = [], []

    def singles():
        for number in range(3):
            alive.append(sum(single() is not None for single in made))
            single = torch.full((1, 2, 3, 3), float(number))
            made.append(weakref.ref(single))
            yield single
            del single

    batch = batch_of(3, singles())
    assert batch.shape == (3, 2, 3, 3)
    assert batch[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert max(alive) <= 1
    only = torch.ones(1, 1)
    assert batch_of(1, [only]) is only
