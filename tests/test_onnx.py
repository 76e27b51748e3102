"""One evaluation as an ONNX graph."""

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint, upscale
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.onnx_file import IDENTITY, OPSET, OneEvaluation
from flowmapsr.flowmapsr_core.method.methods import CTMSR, FlowMapMethod
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import CompactNet, CompactNetConfig
from safetensors.torch import save_file
from small_upscalers import compact

SIZES = [(2, 3, 50, 66), (1, 3, 7, 9), (1, 3, 64, 48)]  # none, or some, or all sides are whole cells


@torch.no_grad()
@pytest.mark.parametrize("realism", [0.0, 0.7, 1.0])
def test_the_graph_is_what_the_chain_evaluates(small_model, photo, realism):
    chain = upscale(small_model, photo, 1.0, steps=1, guidance=1.0, realism=realism, color="none")
    graph = OneEvaluation(small_model, "small")(photo, torch.tensor(realism))
    assert (graph.clamp(0, 1) - chain).abs().max() < 1e-6


@torch.no_grad()
def test_a_condition_is_the_picture_itself(photo):
    config = CompactNetConfig(unshuffle=2, width=8, layers=1, condition_dim=16, prompt_dim=8, inputs=2)
    model = Model(FlowMap(CompactNet(config), FlowMapMethod(condition=True)), PixelCodec())
    for parameter in model.flow.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    chain = upscale(model, photo, 1.0, steps=1, guidance=1.0, realism=0.5, color="none")
    graph = OneEvaluation(model, "two inputs")(photo, torch.tensor(0.5))
    assert (graph.clamp(0, 1) - chain).abs().max() < 1e-6
    assert (chain - photo).abs().max() > 0.01


@pytest.mark.parametrize("method", [CTMSR(), FlowMapMethod(noise=0.1)])
def test_noise_is_refused_in_one_line(method):
    config = CompactNetConfig(unshuffle=2, width=8, layers=1, inputs=method.images)
    with pytest.raises(UserError, match=r"^mine starts from noise; give a model that"):
        OneEvaluation(Model(FlowMap(CompactNet(config), method), PixelCodec()), "mine")


def test_another_upscaler_is_refused_in_one_line(tmp_path, capsys):
    save_file(compact().state_dict(), tmp_path / "other.safetensors")
    assert cli.main(["export", str(tmp_path / "other.safetensors"), "--output", str(tmp_path / "model.onnx")]) == 2
    assert "is another upscaler; 'flowmapsr convert' it first" in capsys.readouterr().err


def test_the_command_refuses_other_names(tmp_path, capsys):
    assert cli.main(["export", "built-in", "--output", str(tmp_path / "model.pt")]) == 2
    assert "an export is an .onnx file; end the name so" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_latents_without_asking_for_their_vae(tmp_path, capsys):
    from flowmapsr.flowmapsr_core.codecs import VAECodec
    from flowmapsr.flowmapsr_core.networks import PRESETS, UNet

    with torch.device("meta"):
        codec = VAECodec()
    save_checkpoint(Model(FlowMap(UNet(PRESETS["tiny"])), codec), tmp_path / "latent.safetensors")
    for model in (tmp_path / "latent.safetensors", tmp_path):  # a folder is looked for one
        assert cli.main(["export", str(model), "--output", str(tmp_path / "model.onnx")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{model} works on a VAE's latents; give a model that works on pixels" in line
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.skipif(not hasattr(torch.export.Dim, "DYNAMIC"), reason="this torch exports no free sizes")
@pytest.mark.parametrize("name", ["built-in", "small"])
def test_onnxruntime_gives_torchs_picture_at_any_size(name, small_model, tmp_path, capfd):
    onnx = pytest.importorskip("onnx", reason="exports need onnx")
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs ONNX files")
    if name == "small":
        name = str(tmp_path / "small.safetensors")
        save_checkpoint(small_model, tmp_path / "small.safetensors")
    path = tmp_path / "model.onnx"
    assert cli.main(["export", name, "--output", str(path)]) == 0
    assert capfd.readouterr() == ("", "")
    assert {file.suffix for file in tmp_path.iterdir()} <= {".onnx", ".safetensors"}
    file, model = onnx.load(path), load_model(name)
    onnx.checker.check_model(file, full_check=True)
    assert [(part.domain, part.version) for part in file.opset_import] == [("", OPSET)]
    assert {part.key: part.value for part in file.metadata_props} == {
        key: model.info[key] for key in IDENTITY if key in model.info
    }
    assert "realism: one number from 0" in file.doc_string
    graph = OneEvaluation(model, name)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    described = [(part.name, part.shape) for part in (*session.get_inputs(), *session.get_outputs())]
    axes = ["n", 3, "height", "width"]
    assert described == [("lr", axes), ("realism", []), ("hr", axes)]
    for shape in SIZES:
        for realism in (0.0, 0.7):
            lr = torch.rand(shape)
            (hr,) = session.run(None, {"lr": lr.numpy(), "realism": np.array(realism, np.float32)})
            assert np.abs(hr - graph(lr, torch.tensor(realism)).numpy()).max() < 1e-4
