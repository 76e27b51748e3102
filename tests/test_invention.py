"""The map of what was invented: closed forms, and what the command writes of it."""

import shutil

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.cli.folder import plan_jobs
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.heat import RAMP, heat_picture
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.images.record import read_record
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.methods import FlowMapMethod
from flowmapsr.flowmapsr_core.upscaling.invention import VISIBLE, invention_map, map_invention, runs_of_map
from flowmapsr.flowmapsr_core.upscaling.meter import in_turn
from PIL import Image


@pytest.fixture
def texture(generator):
    """White noise of standard deviation 0.1, (1, 3, 96, 128), that shrinks to nothing by 4."""
    noise = torch.randn(1, 3, 96, 128, generator=generator, dtype=torch.float64) * 0.1
    return noise - resize(resize(noise, (24, 32)), (96, 128), "bilinear")


FLAT = torch.full((1, 3, 96, 128), 0.5, dtype=torch.float64)
FLAT_SOURCE = FLAT[..., :24, :32]


def test_where_the_result_is_the_posterior_mean_nothing_is_invented(photo):
    mean = resize(photo, (180, 244)).clamp(0, 1)
    for source in (photo, 1 - photo):  # also where both contradict the source
        assert torch.equal(invention_map(mean, mean, source, [mean]), torch.zeros(1, 1, 180, 244))


def test_texture_on_a_flat_source_is_invented(texture):
    """Of contrast c it is c / (c + 2/255); c is that of a window."""
    invented = invention_map(FLAT + texture, FLAT, FLAT_SOURCE)
    contrast = texture.std()
    assert invented.mean() == pytest.approx((contrast / (contrast + VISIBLE)).item(), abs=0.02)
    assert invented.min() > 0.85
    faint = invention_map(FLAT + texture * 0.01, FLAT, FLAT_SOURCE)
    assert faint.max() < 0.15  # what cannot be seen does not count


def test_as_much_invented_contrast_as_supported_is_a_half(generator):
    waves = torch.linspace(0, 40 * torch.pi, 128, dtype=torch.float64).sin() * 0.2
    mean = FLAT + waves
    result = mean + torch.randn(1, 3, 96, 128, generator=generator, dtype=torch.float64) * waves.std()
    middle = invention_map(result, mean, resize(mean, (24, 32)))[..., 16:-16, 16:-16]
    assert middle.mean() == pytest.approx(0.5, abs=0.05)


def test_the_spread_of_seeds_is_a_mean_over_them(texture):
    one, other = FLAT + texture, FLAT + 3 * texture
    both = invention_map(one, FLAT, FLAT_SOURCE, [other])
    root = FLAT + texture * 5**0.5  # of the mean of 1 and 9
    assert torch.allclose(both, invention_map(root, FLAT, FLAT_SOURCE), atol=0.01)


def test_to_contradict_the_source_counts_as_far_as_the_mean_does_not(texture):
    shifted = FLAT + torch.tensor([0.1, -0.1, 0.0], dtype=torch.float64).reshape(1, 3, 1, 1)  # of the same brightness
    drift = invention_map(shifted, FLAT, FLAT_SOURCE)
    contrast = (2 * 2 * 0.1**2 / 3) ** 0.5  # once as a difference from the mean, once as a contradiction
    assert torch.allclose(drift, torch.full_like(drift, contrast / (contrast + VISIBLE)), atol=1e-6)
    noisy = FLAT_SOURCE + texture[..., :24, :32]
    cleaned, clean = (invention_map(FLAT + 0.1 * texture, FLAT, image) for image in (noisy, FLAT_SOURCE))
    assert cleaned.mean() == pytest.approx(clean.mean().item(), abs=0.05)  # by noise of 0.1 it would be 0.9 and more
    assert clean.mean() < 0.6


@pytest.mark.parametrize("scale", [1, 1.37, 4])
def test_a_map_is_a_share_of_any_images(generator, scale):
    size = (round(scale * 23), round(scale * 17))
    source, mean = torch.rand(2, 3, 23, 17, generator=generator), torch.rand(2, 3, *size, generator=generator)
    results = [torch.rand(2, 3, *size, generator=generator) for _ in range(3)]
    invented = invention_map(results[0], mean, source, results[1:])
    assert invented.shape == (2, 1, *size)
    assert invented.isfinite().all()
    assert (invented.min(), invented.max()) >= (0, 0)
    assert invented.max() < 1
    one, *others = (result[1:] for result in results)
    alone = invention_map(one, mean[1:], source[1:], others)
    assert torch.allclose(invented[1:], alone, atol=1e-6)


def test_one_result_is_held_at_a_time(texture):
    import weakref

    alive, made = [], []

    def results():
        for _ in range(3):
            alive.append(sum(result() is not None for result in made))
            result = FLAT + texture
            made.append(weakref.ref(result))
            yield result
            del result

    invention_map(FLAT, FLAT, FLAT_SOURCE, results())
    assert max(alive) == 0


def test_seeds_are_tried_where_a_model_has_noise(photo):
    asked = []

    def again(**changes):
        asked.append(changes)
        return torch.rand(1, 3, 180, 244, generator=torch.Generator().manual_seed(len(asked)))

    result = resize(photo, (180, 244))
    map_invention(again, FlowMapMethod(), result, photo, seed=7)
    assert asked == [{"realism": 0.0}]
    assert runs_of_map(FlowMapMethod()) == 1
    asked.clear()
    map_invention(again, FlowMapMethod(noise=0.1), result, photo, seed=2**64 - 1)
    assert len(asked) == runs_of_map(FlowMapMethod(noise=0.1)) == 4
    seeds = {changes.get("seed", 2**64 - 1) for changes in asked[1:]}
    assert len(seeds) == 3
    assert 2**64 - 1 not in seeds
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_runs_in_turn_are_one_count():
    seen = []
    for run, ticks in zip(in_turn(lambda done, total, _: seen.append((done, total)), 3), (4, 1, 4), strict=True):
        for done in range(1, ticks + 1):
            run(done, ticks, None)
    assert [done for done, _ in seen] == list(range(1, 10))
    assert seen[0] == (1, 12)
    assert seen[-1] == (9, 9)


def test_heat_is_colour_where_there_is_something(photo):
    cold, hot = (heat_picture(photo, torch.full((1, 1, 90, 122), value)) for value in (0.0, 1.0))
    assert torch.allclose(cold, cold[:, :1].expand_as(cold))
    assert (hot[:, 0] >= hot[:, 1]).all()
    for index, color in enumerate(RAMP):
        picture = heat_picture(torch.ones(1, 3, 2, 2), torch.full((1, 1, 2, 2), index / (len(RAMP) - 1)))
        if index >= 2:  # from here on the colour covers all
            assert torch.allclose(picture[0, :, 0, 0], torch.tensor(color), atol=0.05)
        assert 0 <= picture.min() <= picture.max() <= 1


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path, photo):
    path = tmp_path / "in.png"
    Image.fromarray((photo[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_the_command_maps_and_records(source, tmp_path):
    output, maps = tmp_path / "out.jpg", tmp_path / "maps" / "map.png"
    options = ("--output", output, "--scale", 2, "--look", "vivid", "--seed", 5, "--invention-map", maps)
    assert run("upscale", source, *options, "--dtype", "float32") == 0
    model, image = load_model(), read_picture(source).color
    settings = {"look": "vivid", "seed": 5}
    result = upscale(model, image, 2, **settings)
    expected = invention_map(result, upscale(model, image, 2, realism=0.0, **settings), image)
    written, heat = read_picture(maps), read_picture(tmp_path / "maps" / "map-heat.png")
    assert written.gray
    assert (written.color[:, :1] - expected).abs().max() <= 0.5 / 255 + 1e-5
    assert not heat.gray
    assert heat.color.shape == written.color.shape == (1, 3, 180, 244)
    records = [read_record(path) for path in (output, maps, tmp_path / "maps" / "map-heat.png")]
    assert records == [
        {
            "model": "FlowMapSR mini", "hash": model.info["hash_sha256"], "model_file": "built-in",
            "steps": 1, "guidance": 1.0, "realism": 1.0, "seed": 5, "color": "lr-residual", "color_strength": 1.0,
            "dtype": "float32", "source": source.name, "from": "122x90", "to": "244x180",
            "invention": pytest.approx(expected.mean().item(), abs=1e-4),
        }
    ] * 3  # fmt: skip
    assert run("upscale", source, "--output", output, "--scale", 2, "--look", "faithful", "--quiet") == 0
    assert read_record(output)["realism"] == 0
    assert "invention" not in read_record(output)


def test_a_faithful_picture_invents_nothing(source, tmp_path):
    options = ("--output", tmp_path / "out.png", "--scale", 1, "--look", "faithful", "--quiet")
    assert run("upscale", source, *options, "--invention-map", tmp_path / "map.tif") == 0
    assert read_picture(tmp_path / "map.tif").color.max() == 0
    assert read_record(tmp_path / "out.png")["invention"] == 0


def test_a_record_says_what_was_followed(source, tmp_path, small_model):
    """Not what was asked for: a model that knows no guidance is evaluated at 1."""
    small_model.info |= {"title": "Tiny", "training": {"learned_guidance": False}}
    save_checkpoint(small_model, tmp_path / "tiny.safetensors")
    mask = tmp_path / "where.png"
    Image.new("L", (122, 90), 128).save(mask)
    options = ("--output", tmp_path / "out.webp", "--scale", 1, "--model", tmp_path / "tiny.safetensors", "--quiet")
    assert run("upscale", source, *options, "--steps", 1, "--realism", 0.5, "--realism-mask", mask) == 0
    record = read_record(tmp_path / "out.webp")
    model = load_model(tmp_path / "tiny.safetensors")
    assert (record["model"], record["hash"]) == ("Tiny", model.info["hash_sha256"])
    assert (record["steps"], record["guidance"], record["realism"]) == (1, 1.0, 0.5)
    assert record["realism_mask"] == "where.png"


def test_maps_of_a_folder(source, tmp_path, capsys):
    folder, output, maps = tmp_path / "photos", tmp_path / "photos" / "up", tmp_path / "photos" / "maps"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.jpg"):
        Image.open(source).resize((20, 16)).save(folder / name)
    command = ("upscale", folder, "--output", output, "--scale", 1)
    assert run(*command) == 0
    assert run(*command, "--invention-map", maps) == 0  # their pictures are there, but no maps
    assert "2 of 2 images upscaled" in capsys.readouterr().err
    made = {str(path.relative_to(maps)) for path in maps.rglob("*") if path.is_file()}
    assert made == {"a.png", "a-heat.png", "more/b.jpg.png", "more/b.jpg-heat.png"}
    assert run(*command, "--invention-map", maps) == 0  # neither is an input now
    assert "0 of 2 images upscaled, 2 were there already" in capsys.readouterr().err
    (maps / "a-heat.png").unlink()
    assert run(*command, "--invention-map", maps) == 0
    assert "1 of 2 images upscaled, 1 were there already" in capsys.readouterr().err
    assert {read_record(output / name)["to"] for name in ("a.png", "more/b.jpg")} == {"20x16"}


def test_maps_that_have_no_place(source, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a-heat.png"):
        shutil.copy(source, folder / name)
    before = source.read_bytes()
    one, several = (
        ("upscale", source, "--output", tmp_path / "out.png"),
        ("upscale", folder, "--output", tmp_path / "up"),
    )
    for command, maps, words in (
        (one, tmp_path / "map.xyz", "cannot write '.xyz'"),
        (one, tmp_path / "out.png", "out.png would be a picture and its map"),
        (one, source, "in.png is an input itself"),
        (one, folder, "photos: cannot write ''"),
        (several, tmp_path / "map.png", "map.png is one file for several images; give a folder"),
        (several, tmp_path / "up", ".png would be a picture and its map"),
        (several, tmp_path / "maps", "would both become"),  # the map of a-heat.png, and the heat of a.png
    ):
        assert run(*command, "--invention-map", maps, "--quiet") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("flowmapsr: error: ")
        assert words in line, line
    assert source.read_bytes() == before
    assert not (tmp_path / "out.png").exists()
    with pytest.raises(UserError, match=r"map\.png is one file"):
        plan_jobs([folder], tmp_path / "up", tmp_path / "map.png")


def test_a_gray_picture_with_alpha_has_a_map(tmp_path, photo):
    gray = Image.fromarray((photo[0, 0] * 255).round().byte().numpy())
    both = Image.merge("LA", (gray, Image.linear_gradient("L").resize(gray.size)))
    both.save(tmp_path / "in.png")
    options = ("--output", tmp_path / "out.png", "--scale", 1, "--quiet", "--invention-map", tmp_path / "map.png")
    assert run("upscale", tmp_path / "in.png", *options) == 0
    assert np.asarray(Image.open(tmp_path / "map.png")).shape == (90, 122)
    assert Image.open(tmp_path / "out.png").mode == "LA"
