"""``flowmapsr evaluate`` end to end."""

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flowmapsr.flowmapsr_core import save_checkpoint
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.evaluation import makers
from flowmapsr.flowmapsr_core.evaluation.cases import degraded_cases, images_in
from flowmapsr.flowmapsr_core.evaluation.cells import Cells
from flowmapsr.flowmapsr_core.evaluation.columns import Lists, plan_columns
from flowmapsr.flowmapsr_core.evaluation.makers import Loading, ModelMaker, distinct
from flowmapsr.flowmapsr_core.files.lora import save_lora
from flowmapsr.flowmapsr_core.images.degradation import degrade, preset
from flowmapsr.flowmapsr_core.images.metrics import psnr_y
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import LocalNet
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

DEFAULT = [
    "faithful", "balanced", "vivid", "1 step, realism 0.5", "1 step, realism 1", "1 step, blend of realism 0 and 1",
]  # fmt: skip
FEW = (
    "--metrics", "psnr-y", "lr-consistency", "--quiet", "--dtype", "float32", "--factors", "2", "--presets", "bicubic",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, photo):
    """Two images, the second in a folder of its own."""
    write_picture(Picture(photo), tmp_path / "hr" / "one.png")
    write_picture(Picture(photo.flip(3)[..., :81, :]), tmp_path / "hr" / "more" / "two.png")
    return tmp_path / "hr"


@pytest.fixture
def model(tmp_path, small_model):
    path = tmp_path / "small.safetensors"
    save_checkpoint(small_model, path)
    return path


@pytest.fixture
def evaluate(folder, model, tmp_path):
    """Runs the command in this process with the small model; gives the status and the results."""

    def run(*arguments, images=folder, output=tmp_path / "out", options=FEW):
        more = () if "--models" in arguments else ("--models", model)
        command = ["evaluate", images, "--output", output, *options, *more, *arguments]
        status = cli.main([str(argument) for argument in command])
        file = output / "results.json"
        return status, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    return run


def names_of(results):
    return [method["name"] for method in results["methods"]]


def eight_bit(image):
    return (image.clamp(0, 1) * 255).round() / 255


def test_tables_files_and_pictures(evaluate, folder, tmp_path, capsys):
    options = ("--metrics", "psnr-y", "features", "features-lite2", "pixel-grid", "seams", "--quiet", "--tile", "64")
    status, results = evaluate("--factors", "2", "3", "--presets", "bicubic", "flowmapsr", options=options)
    assert status == 0
    assert names_of(results) == ["bicubic", "lanczos", *DEFAULT]
    assert len(results["cells"]) == 2 * 2 * 2 * 8
    assert len(results["means"]) == 2 * 2 * 8
    table = capsys.readouterr().out
    assert table == (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table.count("| method | PSNR-Y, dB |") == 4
    assert "**flowmapsr, x3**, 2 images" in table
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["cells"])
    for row, cell in zip(rows, results["cells"], strict=True):
        assert (row["image"], row["method"]) == (cell["image"], cell["method"])
        assert float(row["features"]) == cell["values"]["features"]
    for mean in results["means"]:
        values = [
            cell["values"]["psnr-y"] for cell in results["cells"]
            if all(cell[key] == mean[key] for key in ("preset", "factor", "method"))
        ]  # fmt: skip
        assert mean["values"]["psnr-y"] == pytest.approx(sum(values) / len(values))
        assert mean["images"] == len(values) == 2
    assert Image.open(tmp_path / "out" / "sheet.png").size == (10 * 260, 46 + 8 * 274)
    assert Image.open(tmp_path / "out" / "plot.png").size[0] > 1000
    dials = [method["dials"] for method in results["methods"] if method.get("dials")]
    assert dials == [["1 step"]] * 3  # faithful is its end


def test_figures_are_those_of_rounded_pictures_without_the_border(evaluate, folder):
    _, results = evaluate()
    files = images_in(folder, folder / "none")
    hr = read_picture(files["more/two.png"]).color[..., :80, :122]
    (case,) = (case for case in degraded_cases(files, ["bicubic"], [2], 0) if case.image == "more/two.png")
    pair = case.load()
    assert torch.equal(pair.reference, hr)
    assert torch.equal(pair.lr, eight_bit(degrade(hr, 2, preset("bicubic"), torch.Generator())))
    expected = psnr_y(eight_bit(resize(pair.lr, (80, 122))), hr, border=2).item()
    (found,) = (cell for cell in results["cells"] if (cell["image"], cell["method"]) == ("more/two.png", "bicubic"))
    assert found["values"]["psnr-y"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["flow-map", "ctmsr"])
def test_a_table_has_the_dial_beside_the_blend(evaluate, small_model, tmp_path, method):
    """Also where a method takes one step alone; blending pictures keeps errors of the ends from adding up.

    Where LR can be trusted, the colour correction brings both ends nearly together.
    """
    if method == "ctmsr":
        small_model = Model(FlowMap(LocalNet(replace(small_model.network.config, inputs=2)), CTMSR()), PixelCodec())
        save_checkpoint(small_model, tmp_path / "ctmsr.safetensors")
    file = tmp_path / ("small.safetensors" if method == "flow-map" else "ctmsr.safetensors")
    _, results = evaluate("--models", file, options=(*FEW[:-1], "real-esrgan"))
    names = [name for name in names_of(results) if name not in ("bicubic", "lanczos")]
    # vivid and realism 1 are one step without guidance, as balanced is
    assert names == (DEFAULT if method == "flow-map" else ["faithful", "balanced", DEFAULT[3], DEFAULT[5]])
    mean = {mean["method"]: mean["values"]["psnr-y"] for mean in results["means"]}
    assert mean[DEFAULT[5]] > min(mean["faithful"], mean[DEFAULT[4] if method == "flow-map" else "balanced"])


def test_lists_multiply():
    lists = Lists(
        ["a/x.safetensors", "b/x.safetensors"], ["faithful", "vivid"], [1, 4], [1.0, 2.0], lora_scales=[1.0, 2.0]
    )
    groups = plan_columns(lists)
    names = [column.name for group in groups for column in group]
    # faithful takes no LoRA, so that it is the same at all scales
    assert len(names) == len(set(names)) == 2 * (1 + 2 + 2 * 2 * 2)
    assert "b/x.safetensors, vivid, LoRA 2" in names
    assert "a/x.safetensors, 4 steps, guidance 2, LoRA 1" in names
    assert {column.lora_scale for group in groups for column in group} == {0, 1, 4 / 3, 2, 8 / 3}
    for group in groups:
        assert len({(column.model, column.lora_scale) for column in group}) == 1
    (group,) = plan_columns(Lists(["x"], realism=[0.25], steps=[2]))
    assert [column.name for column in group] == ["2 steps, realism 0.25", "2 steps, blend of realism 0 and 1"]
    with pytest.raises(UserError, match="realism is 2"):
        plan_columns(Lists(["x"], realism=[2]))


def test_loras_act_by_their_scale(evaluate, tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_lora(lora, {"encoder.1.0.conv1": (torch.randn(2, 12, 3, 3) * 0.1, torch.randn(12, 2, 1, 1))}, 2, 2.0)
    _, results = evaluate("--looks", "faithful", "balanced", "--lora", lora, "--lora-scales", "0", "1", "2")
    assert names_of(results)[2:] == ["faithful", "balanced", "balanced, LoRA 1", "balanced, LoRA 2"]
    assert len({mean["values"]["psnr-y"] for mean in results["means"]}) == 6
    assert results["methods"][-1]["loras"] == {"lora.safetensors": 2}


def test_upscalers_of_the_community(evaluate, tmp_path):
    torch.manual_seed(0)
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=1, upscale=2)
    save_file(network.state_dict(), tmp_path / "compact.safetensors")
    _, results = evaluate("--baseline", tmp_path / "compact.safetensors", "--looks", "faithful")
    assert names_of(results) == ["bicubic", "lanczos", "compact", "faithful"]
    (tmp_path / "balanced.safetensors").write_bytes((tmp_path / "compact.safetensors").read_bytes())
    status, _ = evaluate("--baseline", tmp_path / "balanced.safetensors", output=tmp_path / "other")
    assert status == 2
    assert not (tmp_path / "other" / "results.json").exists()


def test_it_goes_on_where_it_was_stopped_and_ends_at_the_same_bytes(evaluate, tmp_path, monkeypatch, capsys):
    write, upscale, left, made = Cells.write, makers.upscale, [9], []

    def stop(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    monkeypatch.setattr(makers, "upscale", lambda *args, **more: made.append(more["realism"]) or upscale(*args, **more))
    monkeypatch.setattr(Cells, "write", stop)
    assert evaluate()[0] == 130
    assert "stopped" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
    left[0], before = 100, len(made)
    assert evaluate()[0] == 0
    assert left[0] == 100 - (2 * 8 - 9)
    assert before < 10
    assert len(made) <= before + 2 + 5  # the image that it was stopped at, and the other one
    assert evaluate(output=tmp_path / "anew")[0] == 0
    for file in ("results.json", "results.csv", "table.md", "sheet.png"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "anew" / file).read_bytes()
    assert (tmp_path / "out" / "plot.png").exists() is False  # nothing of realism was measured
    made.clear()
    assert evaluate()[0] == 0
    assert made == []
    _, results = evaluate("--metrics", "psnr-y", "psnr-rgb", "lr-consistency", "--looks", "faithful")
    assert made == [0, 0]  # one metric more, of two pictures
    assert results["cells"][-1]["values"].keys() == {"psnr-y", "psnr-rgb", "lr-consistency"}


def test_results_of_other_weights_or_images_are_not_taken(evaluate, small_model, model, folder, caplog):
    _, before = evaluate("--looks", "faithful")
    assert "made of other files or weights" not in caplog.text
    with torch.no_grad():
        for parameter in small_model.flow.parameters():
            parameter.mul_(1.1)
    save_checkpoint(small_model, model)
    _, after = evaluate("--looks", "faithful")
    assert "2 results in " in caplog.text
    changed = [a["values"] != b["values"] for a, b in zip(before["cells"], after["cells"], strict=True)]
    assert changed == [cell["method"] == "faithful" for cell in after["cells"]]
    caplog.clear()
    write_picture(Picture(read_picture(folder / "one.png").color.flip(2)), folder / "one.png")
    evaluate("--looks", "faithful")
    assert "3 results in " in caplog.text


def test_what_a_method_is_called_and_compared_with_does_not_matter(evaluate, model, tmp_path, monkeypatch, caplog):
    _, before = evaluate("--realism", "0", "1")
    other = tmp_path / "other.safetensors"
    other.write_bytes(model.read_bytes())
    made, upscale = [], makers.upscale
    monkeypatch.setattr(makers, "upscale", lambda *args, **more: made.append(more["steps"]) or upscale(*args, **more))
    _, after = evaluate("--realism", "0", "1", "--steps", "1", "2", "--models", model, other)
    assert not caplog.text
    assert len(made) == 2 * (2 + 3)  # two steps, and the other end of their blend; all of the other model
    values = [{cell["method"]: cell["values"] for cell in run["cells"]} for run in (before, after)]
    assert values[0]["1 step, realism 1"] == values[1]["small, 1 step, realism 1"]


def test_what_an_image_is_degraded_with_does_not_depend_on_the_others(folder):
    def lr(cases):
        return next(case.load().lr for case in cases if case.image == "one.png")

    files = images_in(folder, folder / "none")
    alone = {"one.png": files["one.png"]}
    same, other = (lr(degraded_cases(alone, ["flowmapsr"], [2], seed)) for seed in (3, 4))
    assert torch.equal(lr(degraded_cases(files, ["flowmapsr"], [2], 3)), same)
    assert not torch.equal(other, same)


def test_a_metric_that_cannot_run_says_so_in_its_cell(evaluate, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    status, results = evaluate("--metrics", "psnr-y", "ssim-y", "--looks", "faithful")
    assert status == 0
    text = "needs torchmetrics: pip install 'flowmapsr[evaluate]'"
    assert {cell["values"]["ssim-y"] for cell in results["cells"]} == {text}
    assert {metric["name"]: metric["lacking"] for metric in results["metrics"]} == {"psnr-y": None, "ssim-y": text}
    out = capsys.readouterr().out
    assert "| needs torchmetrics |" in out
    assert f"- SSIM-Y {text}" in out


def test_without_matplotlib_there_is_no_plot(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert evaluate("--metrics", "psnr-y", "features", "--looks", "faithful")[0] == 0
    assert "no plot, which needs matplotlib" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").exists()


def test_pictures_are_judged_alone_and_together_where_pyiqa_is(evaluate, monkeypatch):
    """By one that takes the mean of a picture for its quality, and the size of a folder for its distance."""

    def create_metric(name, device):
        if name == "fid":
            return lambda pictures, references: (
                len(list(Path(pictures).iterdir())) + 10 * len(list(Path(references).iterdir()))
            )
        return lambda picture: picture.mean()

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    options = ("--metrics", "musiq", "fid", "--looks", "faithful", "--download")
    _, results = evaluate(*options)
    assert {mean["values"]["fid"] for mean in results["means"]} == {22}
    assert all(0 < mean["values"]["musiq"] < 1 for mean in results["means"])
    assert {cell["values"]["fid"] for cell in results["cells"]} == {"of all images only"}
    assert evaluate(*options)[1] == results


def test_a_damaged_image_is_left_out_and_the_others_are_measured(evaluate, folder, capsys):
    _, whole = evaluate("--looks", "faithful")
    (folder / "cut.png").write_bytes((folder / "one.png").read_bytes()[:9000])
    (folder / "tiny.png").write_bytes(b"")
    status, results = evaluate("--looks", "faithful")
    assert status == 2
    assert results["left_out"] == ["cut.png (bicubic, x2)", "tiny.png (bicubic, x2)"]
    assert results["means"] == whole["means"]
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("flowmapsr: error:")]
    assert len(errors) == 2
    assert "cut.png is damaged or truncated" in errors[0]
    assert "- Left out: cut.png" in captured.out


def test_pairs_of_files(evaluate, folder, tmp_path, capsys):
    for place, factor in (("one", 2), ("more/two", 3)):
        hr = read_picture(folder / f"{place}.png").color
        size = tuple(side // factor for side in hr.shape[-2:])
        write_picture(Picture(resize(hr, size).clamp(0, 1)), tmp_path / "lr" / f"{place}.webp")
    _, results = evaluate("--lr", tmp_path / "lr", "--looks", "faithful")
    assert [(mean["preset"], mean["factor"], mean["images"]) for mean in results["means"]] == (
        [("given", 2, 1)] * 3 + [("given", 3, 1)] * 3
    )
    assert all(20 < cell["values"]["psnr-y"] < math.inf for cell in results["cells"])
    (tmp_path / "lr" / "one.webp").write_bytes(b"no image")
    status, results = evaluate("--lr", tmp_path / "lr", "--looks", "faithful")
    assert (status, results["left_out"]) == (2, ["one.png"])
    (tmp_path / "lr" / "one.webp").unlink()
    assert evaluate("--lr", tmp_path / "lr", "--looks", "faithful")[0] == 2
    assert "one.png has no LR image" in capsys.readouterr().err


def test_lr_images_alone(evaluate, tmp_path):
    _, results = evaluate("--no-reference", "--looks", "faithful")
    assert [metric["name"] for metric in results["metrics"]] == ["lr-consistency"]
    assert {mean["preset"] for mean in results["means"]} == {"given"}
    assert Image.open(tmp_path / "out" / "sheet.png").size[0] == 4 * 260  # without HR


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--factors", "9"), "the scale is 9"),
        (("--realism", "1.5"), "realism is 1.5"),
        (("--steps", "3"), "steps is 3"),
        (("--guidance", "0"), "guidance is 0"),
        (("--seed", "-1"), "the seed is -1"),
        (("--tile", "-1"), "the tile is -1"),
        (("--lora-scales", "1"), "--lora-scales without --lora"),
        (("--models", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--baseline", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--lr", "nowhere"), "no such folder"),
        (("--lr", "nowhere", "--no-reference"), "leave one of them out"),
        (("--no-reference", "--metrics", "psnr-y"), "choose others"),
        (("--device", "moon"), "the device 'moon'"),
    ],
)
def test_bad_options_are_said_in_one_line_before_anything_is_made(evaluate, tmp_path, capsys, arguments, message):
    status, results = evaluate(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert (status, results) == (2, None)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_seams_are_looked_for_where_the_tiles_of_a_model_meet(model):
    def lines(tile, size=(250, 400), least_factor=1.0):
        maker = ModelMaker(columns, Loading(torch.device("cpu"), torch.float32, tile=tile))
        maker.model.least_factor = least_factor
        return maker.lines(torch.zeros(1, 3, 125, 200), size)

    (columns,) = plan_columns(Lists([str(model)], ["faithful"]))
    rows, across = lines(64)
    assert rows
    assert across
    assert all(0 < line < 400 and line % 8 == 0 for line in rows + across)
    assert lines(0) == ([], [])
    painted = lines(128, size=(500, 800))
    assert lines(128, least_factor=4.0) == tuple([line // 2 for line in along] for along in painted)


def test_columns_that_a_model_samples_alike_are_one(small_model):
    (group,) = plan_columns(Lists(["x"], ["faithful"], [1, 2], realism=[0, 1]))
    assert [column.name for column in distinct(small_model, group)] == [
        "faithful", "1 step, realism 1", "1 step, blend of realism 0 and 1", "2 steps, realism 1",
        "2 steps, blend of realism 0 and 1",
    ]  # fmt: skip
    assert distinct(small_model, group)[0].dials == ("1 step", "2 steps")
    small_model.info["training"] = {"guidance": "hidden", "stages": [{"kind": "guided"}]}
    (group,) = plan_columns(Lists(["x"], guidance=[1, 2, 3]))
    assert [column.look.guidance for column in distinct(small_model, group)] == [1]
