"""The command of the ablations: what it says before any training, and what it makes of a variant that blows up."""

import sys

import pytest
from flowmapsr.flowmapsr_core.files.checkpoint import save_checkpoint
from flowmapsr.trainer.run.watch import Exploded
from flowmapsr.trainer.tools.ablations import __main__ as ablations
from flowmapsr.trainer.tools.ablations import bench
from flowmapsr.trainer.tools.ablations.variants import TABLES, UPSCALER
from PIL import Image


@pytest.fixture
def command(tmp_path, photo_file, monkeypatch):
    def run(*arguments):
        folders = ["--photos", str(photo_file.parent), "--validation", str(photo_file.parent)]
        monkeypatch.setattr(sys, "argv", ["ablations", *folders, "--output", str(tmp_path / "made"), *arguments])
        return ablations.main()

    return run


@pytest.fixture
def photo_file(tmp_path, generator):
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.effect_noise((300, 300), 60).convert("RGB").save(path)
    return path


def test_tables_that_need_an_upscaler_are_told_apart():
    assert [name for name, table in TABLES.items() if table.wants_upscaler] == ["parts", "losses"]
    assert UPSCALER not in "".join(change for each in TABLES["noise"].variants for change in each.changes)


def test_an_upscaler_that_is_missing_is_said_before_any_training(command, tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(bench, "train")
    assert command() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --tables parts losses: these need an upscaler; give its file with --upscaler"
    assert not (tmp_path / "made").exists()


def test_a_variant_that_blows_up_is_a_row_and_trained_once(command, tmp_path, small_model, capsys, monkeypatch):
    save_checkpoint(small_model, tmp_path / "model.safetensors")
    trained = []

    def train(recipe):
        trained.append(recipe.output.folder)
        if "0.1, LR seen" in recipe.output.folder:
            raise Exploded("the jump loss has exploded at step 7; lower the learning rate")
        return tmp_path / "model.safetensors"

    monkeypatch.setattr(bench, "train", train)
    assert command("--tables", "noise") == 0
    rows = (tmp_path / "made" / "noise.md").read_text().splitlines()
    assert len(rows) == 3 + len(TABLES["noise"].variants)
    assert "| noise 0.1, LR seen | the jump loss has exploded at step 7 |  |" in rows
    assert len(trained) == len(set(trained)) == len(TABLES["noise"].variants)
    with Image.open(tmp_path / "made" / "noise.png") as picture:
        assert picture.width // picture.height >= len(TABLES["noise"].variants)
