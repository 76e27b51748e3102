"""``upscale --auto``: soft pictures are shrunk to the size of their detail first."""

from pathlib import Path

import pytest
import torch
from flowmapsr.flowmapsr_core.cli import upscale as module
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.images.detail import Surplus
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.record import read_record
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.upscaling.soft import Detail, find_detail, shrink

JETTY = Path(__file__).parent / "data" / "jetty.png"


@pytest.fixture
def soft(tmp_path):
    """A file of 480x320 pixels that was a third as large before."""
    small = resize(read_picture(JETTY).color, (107, 160)).clamp(0, 1)
    write_picture(Picture(resize(small, (320, 480)).clamp(0, 1)), tmp_path / "soft.png")
    return tmp_path / "soft.png"


@pytest.fixture
def half(monkeypatch):
    """Every picture has half the detail."""
    monkeypatch.setattr("flowmapsr.flowmapsr_core.upscaling.soft.surplus", lambda image: Surplus(2.0, 2.0))


@pytest.fixture
def bicubic(monkeypatch):
    """In the place of a model."""
    monkeypatch.setattr(module, "upscale", lambda model, image, size, **_: resize(image, size).clamp(0, 1))


def run(*arguments):
    return main(["upscale", *(str(argument) for argument in arguments), "--look", "faithful"])


@pytest.mark.parametrize(
    ("detail", "size", "shrunk"),
    [
        ((533, 800), (2560, 3840), (533, 800)), ((1280, 1920), (2560, 3840), (1280, 1920)),
        ((533, 800), (5120, 7680), (640, 960)),  # no more than x8
        ((533, 800), (10240, 15360), (1280, 1920)), ((533, 800), (10244, 15368), (1280, 1920)),
    ],
)  # fmt: skip
def test_what_is_shrunk_can_be_upscaled(detail, size, shrunk):
    found = Detail((1280, 1920), detail, detail).shrunk(size)
    assert all(abs(a - b) <= 1 for a, b in zip(found, shrunk, strict=True))
    assert all(side <= most for side, most in zip(found, (1280, 1920), strict=True))
    assert all(wanted <= 8 * (side + 1) for wanted, side in zip(size, found, strict=True))


def test_what_was_found_is_a_line():
    before, detail, size = (1280, 1920), (533, 800), (2560, 3840)
    soft, found = Detail(before, detail, detail), "1920x1280 pixels with the detail of 800x533; "
    assert soft.describe(size) == f"{found}shrunk to that first, x4.8 to 3840x2560"
    assert soft.describe((5120, 7680)) == f"{found}shrunk to 960x640 first, x8 to 7680x5120"
    assert "not shrunk, as x8 is the most that can be made of it" in soft.describe((10240, 15360))
    assert Detail(before, detail, (640, 960)).describe(size) == f"{found}shrunk to 960x640 first, x4 to 3840x2560"
    assert Detail(before, before, before).describe(size) == "1920x1280 pixels full of detail; x2 to 3840x2560"


def test_shrinking_undoes_what_has_enlarged(photo):
    enlarged = resize(photo[..., :45, :60], (90, 120))
    undone, shrunk = shrink(enlarged, (45, 60)), resize(enlarged, (45, 60))
    errors = [(small - photo[..., :45, :60]).square().mean() for small in (undone, shrunk)]
    assert errors[0] < 0.3 * errors[1]
    assert shrink(torch.rand(1, 3, 20, 30), (10, 15)).amax() <= 1


def test_the_sharpest_of_a_batch_says_how_small(monkeypatch):
    found = lambda image: Surplus(2.0 + image[0, 0, 0, 0].item(), 1.5)  # noqa: E731
    monkeypatch.setattr("flowmapsr.flowmapsr_core.upscaling.soft.surplus", found)
    batch = torch.stack([torch.ones(3, 60, 90), torch.zeros(3, 60, 90)])
    assert find_detail(batch) == Detail((60, 90), (30, 45), (40, 60))


def test_a_soft_photograph_is_upscaled_from_its_detail(soft, bicubic, tmp_path, capsys):
    assert run(soft, "--output", tmp_path / "out.png", "--auto", "--scale", 2) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "soft.png: 480x320 pixels" in line)
    record = read_record(tmp_path / "out.png")
    assert (record["from"], record["to"]) == ("480x320", "960x640")
    assert f"; shrunk to {record['shrunk']} first, x" in line
    width, height = (int(side) for side in record["shrunk"].split("x"))
    assert 150 < width < 300
    source = shrink(read_picture(soft).color, (height, width))
    expected = resize(source, (640, 960)).clamp(0, 1)
    assert (read_picture(tmp_path / "out.png").color - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_a_sharp_photograph_is_as_without(bicubic, tmp_path):
    write_picture(Picture(read_picture(JETTY).color[..., :128, :160]), tmp_path / "in.png")
    for name, more in (("a.png", ["--auto"]), ("b.png", [])):
        assert run(tmp_path / "in.png", "--output", tmp_path / name, "--quiet", *more) == 0
    assert torch.equal(*(read_picture(tmp_path / name).color for name in ("a.png", "b.png")))
    assert read_record(tmp_path / "a.png") == read_record(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ([], (128, 96)),
        (["--scale", 4], (256, 192)),
        (["--long-edge", 183], (183, 137)),
        (["--size", "80x60"], (80, 60)),
    ],
)
def test_what_is_asked_for_counts(half, bicubic, photo, tmp_path, options, size):
    write_picture(Picture(photo[..., :48, :64]), tmp_path / "in.png")
    assert run(tmp_path / "in.png", "--output", tmp_path / "out.png", "--auto", "--quiet", *options) == 0
    assert tuple(reversed(read_picture(tmp_path / "out.png").color.shape[-2:])) == size
    assert read_record(tmp_path / "out.png")["shrunk"] == "32x24"


def test_a_mask_of_the_pictures_size_is_shrunk_with_it(half, photo, tmp_path):
    write_picture(Picture(photo[..., :48, :64], photo[:, :1, :48, :64]), tmp_path / "in.png")
    write_picture(Picture(torch.linspace(0, 1, 64).expand(1, 3, 48, 64)), tmp_path / "mask.png")
    options = ("--auto", "--realism-mask", tmp_path / "mask.png", "--realism", 1, "--quiet")
    assert run(tmp_path / "in.png", "--output", tmp_path / "out.png", *options) == 0
    assert read_picture(tmp_path / "out.png").alpha.shape == (1, 1, 96, 128)


@pytest.mark.parametrize(("error", "status"), [(MemoryError(), 2), (KeyboardInterrupt(), 130)])
def test_nothing_is_written_where_looking_fails(photo, tmp_path, monkeypatch, capsys, error, status):
    def fail(image):
        raise error

    monkeypatch.setattr(module, "find_detail", fail)
    write_picture(Picture(photo), tmp_path / "in.png")
    assert run(tmp_path / "in.png", "--output", tmp_path / "out" / "out.png", "--auto", "--quiet") == status
    assert not [*tmp_path.rglob("out.png*")]
    assert ("not enough memory" if status == 2 else "stopped") in capsys.readouterr().err
